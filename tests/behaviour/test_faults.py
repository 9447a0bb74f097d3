"""Every fault × method × body × driver: nothing unsafe is sent twice, no replay is truncated, nothing is left
behind.
"""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from typing import Any

import pytest
from inside import places_of

from smartclient import Policy
from smartclient.testing import (
    CLOSING,
    CLOSING_IDLE,
    FAILING,
    GARBAGE,
    RESETTING,
    RESETTING_BODY,
    SILENT,
    TRUNCATING,
    Behaviour,
)

PATIENCE = 0.3  # seconds, with servers that answer late or never
FAULTS: dict[str, Behaviour | None] = {
    "failing": FAILING,
    "slow": Behaviour(delay=2 * PATIENCE),
    "refusing": None,
    "silent": SILENT,
    "resetting": RESETTING,
    "closing": CLOSING,
    "garbage": GARBAGE,
    "truncating": TRUNCATING,
    "resetting body": RESETTING_BODY,
    "closing idle": CLOSING_IDLE,
}
CONTENT = b"0123456789" * 20_000
CHUNKS = [CONTENT[i : i + 50_000] for i in range(0, len(CONTENT), 50_000)]


@pytest.mark.parametrize("body", ["bytes", "file", "generator"])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
@pytest.mark.parametrize("fault", FAULTS)
def test_fault(driver: Any, fleet: Any, fault: str, method: str, body: str) -> None:
    threads = threading.active_count()
    servers = fleet(3)
    behaviour = FAULTS[fault]
    limits = driver.httpx.Limits(max_connections=4, max_keepalive_connections=2)
    answered = 0
    failed: list[Any] = []
    policy = Policy(attempt_timeout=PATIENCE if fault in ("slow", "silent") else 10, balancer="round_robin")
    with driver.client({"orders": servers.addresses}, policy=policy, limits=limits) as client:
        client.get("http://orders/warm")
        if behaviour is None:
            servers[0].refuse()
        else:
            servers[0].behave(behaviour)
        for n in range(4):
            try:
                response = client.request(method, f"http://orders/{n}", content=_content(driver, body))
                answered += response.status_code == 200
                if response.status_code != 200:
                    failed.append(response.status_code)
            except driver.httpx.TransportError as error:
                failed.append(error)
        assert all(node.in_flight == 0 for node in client.nodes())
        assert places_of(client.balanced).taken == 0
    assert answered + len(failed) == 4
    received = [request for request in servers.received if request.target != "/warm"]
    assert {request.body for request in received if request.complete} <= {CONTENT}
    if method == "POST":
        assert max(Counter(request.target for request in received).values()) == 1
        assert answered >= 2
    elif body != "generator":
        assert answered == 4, failed
    if fault == "refusing":
        assert answered == 4, failed
    assert max(server.peak for server in servers.servers) <= 4
    _until(lambda: servers.open == 0)
    servers.stop()
    _until(lambda: threading.active_count() <= threads)


def _content(driver: Any, body: str) -> Any:
    if body == "bytes":
        return CONTENT
    if body == "generator":
        return driver.body(CHUNKS)
    return io.BytesIO(CONTENT) if not driver.asynchronous else _AsyncFile()


class _AsyncFile:
    """What an async client takes in a file's place: an iterable that begins anew each time."""

    async def __aiter__(self) -> Any:
        for chunk in CHUNKS:
            yield chunk


def _until(condition: Any, seconds: float = 5) -> None:
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, "did not happen in time"
        time.sleep(0.005)
