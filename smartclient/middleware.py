"""Middleware for services that call others: outgoing calls inherit the deadline of the incoming request, and know
whether it is a retry. Small, for ASGI and WSGI; it imports no framework and no HTTP library.

Without it, three layers with three attempts each turn one call into 27 when the last service fails. With it:

1. calls made for a retry are not retried (unless nothing was sent), and add nothing to their service's retry budget;
2. a 502, 503 or 504 for a request whose own calls failed, retries included, carries `grpc-retry-pushback-ms: -1`
   (gRPC A6: do not retry): the layer next to the failing service has retried already;
3. each response says how many requests this process has in progress (`endpoint-load-metrics`, gRPC A51): callers that
   balance with `adaptive` see a queue that others make.

    app = ASGIMiddleware(app)                                    # Starlette, FastAPI, Litestar, Django, …
    app.wsgi_app = WSGIMiddleware(app.wsgi_app)                  # Flask
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from typing import Any

from .balancers.load_report import HEADER, with_in_flight
from .inherited import Work, deadline, header_of, work
from .statuses import BAD_GATEWAYS

ATTEMPT_HEADER = "x-envoy-attempt-count"
LOAD = HEADER.encode()
PUSHBACK = "grpc-retry-pushback-ms"


class _Middleware:
    """
    app:              the application
    deadline_header:  its callers' `Policy.deadline_header`; None: the usual ones
    attempt_header:   its callers' `Policy.attempt_header`
    tell_load:        False: say nothing of the requests in progress, as where strangers read the responses
    """

    def __init__(
        self,
        app: Any,
        *,
        deadline_header: str | None = None,
        attempt_header: str = ATTEMPT_HEADER,
        tell_load: bool = True,
    ) -> None:
        self.app = app
        self._deadline_header = deadline_header
        self._attempt_header = attempt_header
        self._tell_load = tell_load
        self._in_progress = _InProgress()

    def _begin(self, headers: Any) -> tuple[deadline, Work]:
        attempt = header_of(headers, self._attempt_header) or ""
        retried = attempt.isascii() and attempt.isdigit() and int(attempt[:9]) > 1
        return deadline.from_headers(headers, self._deadline_header), Work(retried)

    def _report(self, said: list[str]) -> str | None:
        """The load report for a response that has these of its own; None: leave it as it is."""
        return with_in_flight(said[0] if said else None, self._in_progress.count) if self._tell_load else None


class _InProgress:
    """How many requests this process has in progress. Threads count in it."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def began(self) -> None:
        with self._lock:
            self.count += 1

    def ended(self) -> None:
        with self._lock:
            self.count -= 1


class ASGIMiddleware(_Middleware):
    """For ASGI applications."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        until, mine = self._begin(scope["headers"])

        async def passing(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ())]
                if mine.in_vain and message["status"] in BAD_GATEWAYS:
                    headers.append((PUSHBACK.encode(), b"-1"))
                said = [bytes(value).decode("latin-1") for key, value in headers if bytes(key).lower() == LOAD]
                report = self._report(said)
                if report is not None:
                    headers = [pair for pair in headers if bytes(pair[0]).lower() != LOAD]
                    headers.append((LOAD, report.encode("latin-1")))
                message = {**message, "headers": headers}
            await send(message)

        token = work.set(mine)
        self._in_progress.began()
        try:
            with until:
                await self.app(scope, receive, passing)
        finally:
            self._in_progress.ended()
            work.reset(token)


class WSGIMiddleware(_Middleware):
    """For WSGI applications."""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        headers = {key[5:].replace("_", "-"): value for key, value in environ.items() if key.startswith("HTTP_")}
        until, mine = self._begin(headers)

        def starting(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            if mine.in_vain and status[:3].isdigit() and int(status[:3]) in BAD_GATEWAYS:
                headers = [*headers, (PUSHBACK, "-1")]
            report = self._report([value for key, value in headers if key.lower() == HEADER])
            if report is not None:
                headers = [*(pair for pair in headers if pair[0].lower() != HEADER), (HEADER, report)]
            return start_response(status, headers, *rest)

        def begin() -> Iterable[bytes]:
            work.set(mine)
            until.__enter__()
            body: Iterable[bytes] = self.app(environ, starting)
            return body

        context = copy_context()
        self._in_progress.began()
        try:
            body = context.run(begin)
        except BaseException:
            self._in_progress.ended()
            raise
        return _InContext(context, body, self._in_progress.ended)


class _InContext:
    """The body of a WSGI response, produced in the request's context. ended: called once, when it is closed"""

    def __init__(self, context: Context, body: Iterable[bytes], ended: Callable[[], None]) -> None:
        self._context = context
        self._body = body
        self._ended: Callable[[], None] | None = ended

    def __iter__(self) -> Iterator[bytes]:
        chunks = self._context.run(iter, self._body)
        while True:
            try:
                chunk = self._context.run(next, chunks)
            except StopIteration:
                return
            yield chunk

    def close(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()
        close = getattr(self._body, "close", None)
        if close is not None:
            self._context.run(close)
