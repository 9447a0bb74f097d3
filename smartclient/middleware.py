"""Middleware for services that call others: outgoing calls inherit the deadline of the incoming request, and know
whether it is a retry. Small, for ASGI and WSGI; it imports no framework and no HTTP library.

Without it, three layers with three attempts each turn one call into 27 when the last service fails. With it:

1. calls made for a retry are not retried (unless nothing was sent), and add nothing to their service's retry budget;
2. a 502, 503 or 504 for a request whose own calls failed, retries included, carries `grpc-retry-pushback-ms: -1`
   (gRPC A6: do not retry): the layer next to the failing service has retried already.

    app = ASGIMiddleware(app)                                    # Starlette, FastAPI, Litestar, Django, …
    app.wsgi_app = WSGIMiddleware(app.wsgi_app)                  # Flask
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from typing import Any

from .inherited import Work, deadline, header_of, work
from .statuses import BAD_GATEWAYS

ATTEMPT_HEADER = "x-envoy-attempt-count"
PUSHBACK = "grpc-retry-pushback-ms"


class _Middleware:
    """
    app:              the application
    deadline_header:  its callers' `Policy.deadline_header`; None: the usual ones
    attempt_header:   its callers' `Policy.attempt_header`
    """

    def __init__(self, app: Any, *, deadline_header: str | None = None, attempt_header: str = ATTEMPT_HEADER) -> None:
        self.app = app
        self._deadline_header = deadline_header
        self._attempt_header = attempt_header

    def _begin(self, headers: Any) -> tuple[deadline, Work]:
        attempt = header_of(headers, self._attempt_header) or ""
        retried = attempt.isascii() and attempt.isdigit() and int(attempt[:9]) > 1
        return deadline.from_headers(headers, self._deadline_header), Work(retried)


class ASGIMiddleware(_Middleware):
    """For ASGI applications."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        until, mine = self._begin(scope["headers"])

        async def passing(message: Any) -> None:
            if mine.in_vain and message["type"] == "http.response.start" and message["status"] in BAD_GATEWAYS:
                message = {**message, "headers": [*message.get("headers", ()), (PUSHBACK.encode(), b"-1")]}
            await send(message)

        token = work.set(mine)
        try:
            with until:
                await self.app(scope, receive, passing)
        finally:
            work.reset(token)


class WSGIMiddleware(_Middleware):
    """For WSGI applications."""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        headers = {key[5:].replace("_", "-"): value for key, value in environ.items() if key.startswith("HTTP_")}
        until, mine = self._begin(headers)

        def starting(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            if mine.in_vain and status[:3].isdigit() and int(status[:3]) in BAD_GATEWAYS:
                headers = [*headers, (PUSHBACK, "-1")]
            return start_response(status, headers, *rest)

        def begin() -> Iterable[bytes]:
            work.set(mine)
            until.__enter__()
            body: Iterable[bytes] = self.app(environ, starting)
            return body

        context = copy_context()
        return _InContext(context, context.run(begin))


class _InContext:
    """The body of a WSGI response, produced in the request's context."""

    def __init__(self, context: Context, body: Iterable[bytes]) -> None:
        self._context = context
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        chunks = self._context.run(iter, self._body)
        while True:
            try:
                chunk = self._context.run(next, chunks)
            except StopIteration:
                return
            yield chunk

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            self._context.run(close)
