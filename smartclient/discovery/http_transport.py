"""What keeps requests to registries out of others' sight: no spans, no cassettes, no lines of httpx."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx
from httpx._transports.default import ResponseStream, map_httpcore_exceptions


class DirectTransport(httpx.HTTPTransport):
    """Past tools that patch `httpx.HTTPTransport` (OpenTelemetry, vcrpy): the long polls of a registry are nobody's
    spans, and on no cassette.
    """

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with map_httpcore_exceptions():
            answer = self._pool.handle_request(asked)
        stream: Any = answer.stream
        return httpx.Response(
            answer.status, headers=answer.headers, stream=ResponseStream(stream), extensions=answer.extensions
        )


class _Unlogged(logging.Filter):
    """Of httpx's logger: it says a line at INFO for each request, also for ours to registries."""

    def __init__(self) -> None:
        super().__init__()
        self.here = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(self.here, "asking", False)


_unlogged = _Unlogged()
logging.getLogger("httpx").addFilter(_unlogged)


@contextmanager
def unlogged() -> Iterator[None]:
    """What this thread asks meanwhile is not logged by httpx."""
    _unlogged.here.asking = True
    try:
        yield
    finally:
        _unlogged.here.asking = False
