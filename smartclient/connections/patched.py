"""Patched httpx: tools replace `httpx.HTTPTransport.handle_request`, and its async twin, to see what is sent
(OpenTelemetry's `instrument()`), or to answer in place of a server (pytest-httpx, vcrpy). Our attempts do not go
through it, so such tools would be bypassed in silence, and a mocked test would go to the network.

Where that method is not httpx's own, an attempt goes through it: over a private subclass whose pool is our connection.
The tool sees a request of its own for each attempt, with the service's URL; what it adds to its headers is sent. Where
the method is httpx's own, that costs one comparison.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from types import FunctionType, SimpleNamespace
from typing import Any

import anyio

from ..calls.effects import Send
from ..flavour import Flavour
from ..retry.request_body import WatchedStream

around_tools: list[Callable[[], AbstractContextManager[Any]]] = []
"""Contexts in which tools, and transports of `connect=`, are called: smartclient.opentelemetry has httpx's own
instrumentation leave our attempts alone."""


@contextmanager
def left_to_us(method: Any, flavour: Flavour) -> Iterator[None]:
    """method: of httpx's transports; as long as it is httpx's own there is nobody to tell"""
    if not around_tools or not is_patched(method, flavour):
        yield
        return
    with ExitStack() as stack:
        for context in around_tools:
            stack.enter_context(context())
        yield


def is_patched(method: Any, flavour: Flavour) -> bool:
    """Whether a method of httpx's transports is not httpx's own. (A wrapper of wrapt's looks like what it wraps, but is
    no function; others are functions from elsewhere.)
    """
    own = os.path.dirname(flavour.httpx.__file__) + os.sep
    return type(method) is not FunctionType or not method.__code__.co_filename.startswith(own)


@cache
def _private(flavour: Flavour, asynchronous: bool) -> Any:
    base = flavour.httpx.AsyncHTTPTransport if asynchronous else flavour.httpx.HTTPTransport
    return type("AttemptTransport", (base,), {"__init__": lambda self, pool: setattr(self, "_pool", pool)})


class Pool:
    """What httpx's transport takes for httpcore's pool: one attempt on our connection. body: of the real response"""

    _proxy_url = None  # pytest-httpx looks

    def __init__(self, connections: Any, request: Any, effect: Send) -> None:
        self._connections = connections
        self._request = request
        self._effect = effect
        self.body: Any = None

    def handle_request(self, request: Any) -> Any:
        return self._answer(self._connections.send(*self._asked(request), direct=True))

    async def handle_async_request(self, request: Any) -> Any:
        return self._answer(await self._connections.send(*self._asked(request), direct=True))

    def _asked(self, request: Any) -> tuple[Any, Send]:
        """The request as the tool has left it: httpcore's."""
        headers = self._connections.dialing.flavour.httpx.Headers(request.headers)
        asked = SimpleNamespace(
            method=request.method.decode(), url=self._request.url, headers=headers, extensions=request.extensions
        )
        return asked, self._effect._replace(stream=request.stream, headers=())

    def _answer(self, response: Any) -> Any:
        self.body = response.stream
        return SimpleNamespace(
            status=response.status_code, headers=response.headers.raw, stream=self.body, extensions=response.extensions
        )


def _for_the_tool(request: Any, effect: Send, flavour: Flavour) -> Any:
    """A request for one attempt: what the tool does to it is forgotten with it."""
    headers = request.headers.copy()
    for key, value in effect.headers:
        headers[key.decode("latin-1")] = value.decode("latin-1")
    extensions = dict(request.extensions)
    if effect.timeouts is not None:
        extensions["timeout"] = dict(effect.timeouts)
    return flavour.httpx.Request(
        request.method, request.url, headers=headers, stream=effect.stream, extensions=extensions
    )


def _from_the_tool(response: Any, pool: Pool, connections: Any, effect: Send) -> Any:
    """Its response, with a body that ends the attempt: ours, if it left that alone; else its own, or a mock's."""
    if getattr(response.stream, "_httpcore_stream", None) is pool.body is not None:
        response.stream = pool.body
    elif not response.is_closed:
        response.stream = connections.body_of(response.stream, effect)
    return response


def send_through_tool(connections: Any, request: Any, effect: Send) -> Any:
    """An attempt of the blocking client."""
    flavour, pool = connections.dialing.flavour, Pool(connections, request, effect)
    transport = _private(flavour, False)(pool)
    effect.attempt.held = True
    try:
        with left_to_us(flavour.httpx.HTTPTransport.handle_request, flavour):
            response = transport.handle_request(_for_the_tool(request, effect, flavour))
    finally:
        effect.attempt.held = False
    return _from_the_tool(response, pool, connections, effect)


async def asend_through_tool(connections: Any, request: Any, effect: Send) -> Any:
    """An attempt of the async client."""
    flavour, pool = connections.dialing.flavour, Pool(connections, request, effect)
    transport = _private(flavour, True)(pool)
    effect.attempt.held = True
    try:
        with left_to_us(flavour.httpx.AsyncHTTPTransport.handle_async_request, flavour):
            response = await transport.handle_async_request(_for_the_tool(request, effect, flavour))
    finally:
        effect.attempt.held = False
        if isinstance(effect.stream, WatchedStream):
            with anyio.CancelScope(shield=True):
                await effect.stream.aclose()
    return _from_the_tool(response, pool, connections, effect)
