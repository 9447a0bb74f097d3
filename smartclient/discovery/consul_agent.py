"""python-consul over httpx: its queries, with timeouts, the token in a header, and waits that others can end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

import httpx

from .registry import SHOWN, Handle, RegistryAnswer


class Agent:
    """python-consul's queries over httpx. One per watch: one connection, that can be interrupted.

    Its constructor is not called, since it reads CONSUL_HTTP_* by itself and refuses what it does not know (a scheme).
    """

    def __init__(self, client: httpx.Client) -> None:
        # Imported when first used: it brings requests along, which takes a while.
        from consul import base

        self.http = _http_layer(base)(client)
        self.token: str | None = None  # python-consul would put it into the query
        self.dc: str | None = None
        self.consistency = "default"
        self.health: Any = base.Health(self) if hasattr(base, "Health") else base.Consul.Health(self)

    def prepare_headers(self, token: str | None = None) -> dict[str, str]:
        """Asked by py-consul, the maintained fork. Our layer has the token."""
        return {}

    def interrupt(self) -> None:
        self.http.interrupt()

    def close(self) -> None:
        self.http.close()


def _http_layer(base: Any) -> Any:
    """python-consul's `HTTPClient`, over httpx."""

    class HTTPLayer(base.HTTPClient):  # type: ignore[misc]
        def __init__(self, client: httpx.Client) -> None:
            self._client = client
            self._read_timeout = client.timeout.read
            self._extra: list[tuple[str, str]] = []
            self.behind = 0.0  # seconds that the last answer was behind the leader
            self._handle = Handle()
            self.interrupt = self._handle.cut

        def prepare(self, extra: list[tuple[str, str]], read_timeout: float) -> None:
            """What the next query has that python-consul's signature does not."""
            self._extra, self._read_timeout = extra, read_timeout

        def use_token(self, token: str | None) -> None:
            if token is not None:
                self._client.headers["X-Consul-Token"] = token

        def prepared(self, query: str, dc: str | None) -> list[Any]:
            """The entries of a prepared query."""
            path = f"/v1/query/{quote(query, safe='')}/execute"
            params = {} if dc is None else {"dc": dc}
            response = self._client.get(path, params=params, extensions={"trace": self._trace})
            if response.status_code == 404:
                return []
            if response.status_code != 200:
                raise ConsulAnswer(response.status_code, response.text)
            nodes = response.json()["Nodes"]
            return list(nodes or ())

        def get(self, callback: Any, path: str, params: Any = None, headers: Any = None, **_: Any) -> Any:
            timeout = httpx.Timeout(self._client.timeout.connect, read=self._read_timeout)
            query = [*_pairs(params), *self._extra]
            response = self._client.get(path, params=query, timeout=timeout, extensions={"trace": self._trace})
            if response.status_code != 200:
                raise ConsulAnswer(response.status_code, response.text)
            behind = response.headers.get("X-Consul-LastContact", "0")
            self.behind = int(behind) / 1000 if behind.isdigit() else 0.0
            if "X-Consul-Index" not in response.headers:
                raise ValueError("the answer has no X-Consul-Index: is that a Consul agent?")
            try:
                return callback(base.Response(response.status_code, response.headers, response.text))
            except base.ConsulException as error:  # py-consul's has the whole body in it
                raise ValueError(str(error)[:SHOWN]) from None

        def put(self, callback: Any, path: str, params: Any = None, data: Any = "", **_: Any) -> Any:
            raise NotImplementedError("this layer only reads")

        post = delete = put

        def close(self) -> None:
            self._client.close()
            self._handle.release()

        def _trace(self, event: str, info: Mapping[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                self._handle.hold(info["return_value"])  # from now on: TLS must be interruptible, too

    return HTTPLayer


class ConsulAnswer(RegistryAnswer):
    """An answer other than 200, in words that help."""

    hints: ClassVar = {
        403: " (does the ACL token exist, and have service:read and node:read?)",
        500: " (a bad filter, an unknown datacenter, or no leader)",
    }


def _pairs(params: Any) -> list[tuple[str, Any]]:
    return list(params.items() if isinstance(params, Mapping) else params or ())
