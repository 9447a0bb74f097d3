"""The status of a client, shown: a page for people, JSON for programs.

    app.mount("/smartclient", smartclient.status.app(client))            # ASGI: Starlette, FastAPI, …
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/smartclient": smartclient.status.wsgi_app(client)})

It tells where your services are. Let nobody see it whom that does not concern.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol
from urllib.parse import parse_qs

from .page import page

OWN = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
HEADERS = [("cache-control", "no-store"), ("x-content-type-options", "nosniff"), ("content-security-policy", OWN)]


class HasStatus(Protocol):
    def status(self) -> Any: ...


def app(client: HasStatus) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """An ASGI application: the status of that client as a page; with `?format=json` as JSON."""

    async def status(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["type"] != "http":
            raise ValueError(f"smartclient.status: there is no {scope['type']} here")
        code, kind, body = _answer(client, scope["method"], scope.get("query_string", b"").decode("latin-1"))
        headers = [(name.encode(), value.encode()) for name, value in _headers(kind, body)]
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return status


def wsgi_app(client: HasStatus) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """The same as a WSGI application."""

    def status(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        code, kind, body = _answer(client, environ["REQUEST_METHOD"], environ.get("QUERY_STRING", ""))
        start_response("200 OK" if code == 200 else "405 Method Not Allowed", _headers(kind, body))
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    return status


def _answer(client: HasStatus, method: str, query: str) -> tuple[int, str, bytes]:
    if method not in ("GET", "HEAD"):
        return 405, "text/plain; charset=utf-8", b"GET\n"
    said = client.status().as_dict()
    if "json" in parse_qs(query).get("format", ()):
        return 200, "application/json", json.dumps(said).encode()
    return 200, "text/html; charset=utf-8", page(said).encode()


def _headers(kind: str, body: bytes) -> list[tuple[str, str]]:
    return [("content-type", kind), ("content-length", str(len(body))), *HEADERS]


__all__ = ["app", "wsgi_app"]
