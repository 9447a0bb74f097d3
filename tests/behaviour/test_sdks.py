"""Real SDKs, through our clients, to a local stand-in server: openai (both flavours), anthropic (httpx2), groq
(httpx).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import groq
import openai
import pytest

import smartclient
import smartclient.httpx2
from smartclient.testing import FAILING, Behaviour, Fleet

JSON = (("content-type", "application/json"),)


def answering(body: Any) -> Behaviour:
    return Behaviour(body=json.dumps(body).encode(), headers=JSON)


CHAT = answering(
    {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
)  # fmt: skip
MESSAGE = answering(
    {
        "id": "1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": "hello"}],
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
)  # fmt: skip
POLICY = smartclient.Policy(retry=smartclient.Retry(methods=smartclient.IDEMPOTENT | {"POST"}))
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("ours", [smartclient, smartclient.httpx2], ids=["httpx", "httpx2"])
def test_openai(ours: Any) -> None:
    with Fleet(3, CHAT) as fleet, ours.Client({"llm": fleet.addresses}, policy=POLICY, trust_env=False) as http:
        fleet[0].behave(FAILING)
        client = openai.OpenAI(api_key="k", base_url="http://llm/v1", http_client=http, max_retries=0)
        for _ in range(4):
            assert client.chat.completions.create(**ASK).choices[0].message.content == "hello"

    async def main() -> None:
        async with ours.AsyncClient({"llm": fleet.addresses}, policy=POLICY, trust_env=False) as http:
            client = openai.AsyncOpenAI(api_key="k", base_url="http://llm/v1", http_client=http, max_retries=0)
            for _ in range(4):
                assert (await client.chat.completions.create(**ASK)).choices[0].message.content == "hello"

    with Fleet(3, CHAT) as fleet:
        fleet[0].behave(FAILING)
        asyncio.run(main())


def test_anthropic() -> None:
    ours: Any = smartclient.httpx2

    async def main() -> None:
        async with ours.AsyncClient({"llm": fleet.addresses}, policy=POLICY, trust_env=False) as http:
            client = anthropic.AsyncAnthropic(api_key="k", base_url="http://llm", http_client=http, max_retries=0)
            assert (await client.messages.create(max_tokens=5, **ASK)).content[0].text == "hello"  # type: ignore[union-attr]

    with Fleet(2, MESSAGE) as fleet:
        with ours.Client({"llm": fleet.addresses}, policy=POLICY, trust_env=False) as http:
            client = anthropic.Anthropic(api_key="k", base_url="http://llm", http_client=http, max_retries=0)
            assert client.messages.create(max_tokens=5, **ASK).content[0].text == "hello"  # type: ignore[union-attr]
        asyncio.run(main())


def test_groq() -> None:
    async def main() -> None:
        async with smartclient.AsyncClient({"llm": fleet.addresses}, trust_env=False) as http:
            client = groq.AsyncGroq(api_key="k", base_url="http://llm", http_client=http, max_retries=0)
            assert (await client.chat.completions.create(**ASK)).choices[0].message.content == "hello"

    with Fleet(2, CHAT) as fleet:
        with smartclient.Client({"llm": fleet.addresses}, trust_env=False) as http:
            client = groq.Groq(api_key="k", base_url="http://llm", http_client=http, max_retries=0)
            assert client.chat.completions.create(**ASK).choices[0].message.content == "hello"
        asyncio.run(main())
