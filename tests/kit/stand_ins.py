"""Stand-ins for registries of which no real server can be had here: Eureka, Nacos, Kubernetes."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Answering(BaseHTTPRequestHandler):
    """Answers a connection after another, and tells nobody."""

    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


class Serving:
    """A server in a thread, at an address of its own."""

    def __init__(self, handler: type[Answering]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class StandIn(Serving):
    """An HTTP server; `answer(method, path, query, headers)` returns a status and what is sent as JSON (None: nothing).

    status: in place of all answers, unless it is 200;  asked: the paths it was asked for
    """

    def __init__(self) -> None:
        self.status = 200
        self.asked: list[str] = []
        stand_in = self

        class Handler(Answering):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                query = {name: values[-1] for name, values in parse_qs(f"{parts.query}&{body}").items()}
                stand_in.asked.append(parts.path)
                status, said = stand_in.answer(self.command, parts.path, query, self.headers)
                if stand_in.status != 200:
                    status, said = stand_in.status, {"message": "as told"}
                content = b"" if said is None else json.dumps(said).encode()
                self.answer(status, content)

            do_POST = do_GET

        super().__init__(Handler)

    def answer(self, method: str, path: str, query: dict[str, str], headers: Any) -> tuple[int, Any]:
        raise NotImplementedError


class EurekaStandIn(StandIn):
    """deltas: whether it has them, each for three minutes;  lost: the next ones are, so that hash codes do not fit"""

    def __init__(self) -> None:
        super().__init__()
        self.instances: dict[str, dict[str, Any]] = {}
        self.deltas, self.lost = True, False
        self._changes: list[dict[str, Any]] = []

    def forget(self) -> None:
        """As after the three minutes."""
        self._changes.clear()

    def put(self, address: str, app: str = "ORDERS", **more: Any) -> None:
        host, _, port = address.rpartition(":")
        one = {
            "instanceId": f"{app}:{address}", "app": app, "hostName": host, "ipAddr": "10.9.9.9",
            "vipAddress": app.lower(), "status": "UP", "port": {"$": int(port), "@enabled": "true"},
            "securePort": {"$": 443, "@enabled": "false"},
            "metadata": {"@class": "java.util.Collections$EmptyMap"},
            "dataCenterInfo": {"name": "Amazon", "metadata": {"availability-zone": "us-1c"}}, **more,
        }  # fmt: skip
        self._changes.append({**one, "actionType": "MODIFIED" if one["instanceId"] in self.instances else "ADDED"})
        self.instances[one["instanceId"]] = one

    def drop(self, address: str, app: str = "ORDERS") -> None:
        self._changes.append({**self.instances.pop(f"{app}:{address}"), "actionType": "DELETED"})

    def answer(self, method: str, path: str, query: dict[str, str], headers: Any) -> tuple[int, Any]:
        if path == "/eureka/apps":
            return 200, self._said(list(self.instances.values()))
        if path == "/eureka/apps/delta" and self.deltas:
            return 200, self._said([] if self.lost else self._changes)
        return 404, {"message": "not found"}

    def _said(self, instances: list[dict[str, Any]]) -> Any:
        statuses = sorted(one["status"] for one in self.instances.values())
        code = "".join(f"{status}_{statuses.count(status)}_" for status in sorted(set(statuses)))
        apps: dict[str, list[Any]] = {}
        for one in instances:
            apps.setdefault(one["app"], []).append(one)
        # XStream writes a list of one as the one.
        listed = [{"name": name, "instance": ones if len(ones) > 1 else ones[0]} for name, ones in apps.items()]
        return {"applications": {"versions__delta": "1", "apps__hashcode": code, "application": listed}}


class NacosStandIn(StandIn):
    """password: that it asks of the user "shop"; None: of nobody.  token: the one that is good now"""

    def __init__(self, password: str | None = None) -> None:
        super().__init__()
        self.hosts: dict[str, list[dict[str, Any]]] = {}
        self.password, self.token = password, "t1"
        self.queries: list[dict[str, str]] = []

    def put(self, address: str, service: str = "orders", **more: Any) -> None:
        host, _, port = address.rpartition(":")
        self.hosts.setdefault(service, []).append(
            {"ip": host, "port": int(port), "weight": 1.0, "healthy": True, "enabled": True, "ephemeral": True,
             "clusterName": "DEFAULT", "serviceName": f"DEFAULT_GROUP@@{service}", "metadata": {}, **more}
        )  # fmt: skip

    def answer(self, method: str, path: str, query: dict[str, str], headers: Any) -> tuple[int, Any]:
        if path == "/nacos/v1/auth/login":
            if (query.get("username"), query.get("password")) == ("shop", self.password):
                return 200, {"accessToken": self.token, "tokenTtl": 18000}
            return 403, {"message": "unknown user!"}
        if "serviceName" in query:
            self.queries.append(query)
        if self.password is not None and headers.get("Authorization") != f"Bearer {self.token}":
            return 403, {"message": "token invalid!"}
        if path == "/nacos/v1/ns/service/list":
            return 200, {"count": len(self.hosts), "doms": list(self.hosts)}
        hosts = self.hosts.get(query["serviceName"], [])
        if path == "/nacos/v1/ns/instance/list":
            return 200, {"hosts": hosts, "cacheMillis": 10000, "name": "DEFAULT_GROUP@@orders"}
        if path == "/nacos/v2/ns/instance/list":
            return 200, {"code": 0, "message": "success", "data": {"hosts": hosts}}
        if path == "/nacos/v3/client/ns/instance/list":
            return 200, {"code": 0, "message": "success", "data": hosts}
        return 404, {"message": "no such path"}


def piece(name: str, *endpoints: Any, port: int = 80, version: str = "1", service: str = "orders") -> dict[str, Any]:
    """An EndpointSlice."""
    labels = {"kubernetes.io/service-name": service}
    return {"metadata": {"name": name, "resourceVersion": version, "labels": labels}, "addressType": "IPv4",
            "ports": [{"name": "metrics", "port": 9}, {"name": "http", "port": port}],
            "endpoints": list(endpoints)}  # fmt: skip


def endpoint(address: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions, "zone": "eu-1a", "nodeName": "node-1",
            "targetRef": {"kind": "Pod", "name": "orders-abc"}, "hints": {"forZones": [{"name": "eu-1a"}]}}  # fmt: skip


class KubernetesStandIn(Serving):
    """A Kubernetes API server: a list, and a watch that says what it is told to. It replays documented sequences, and
    what was seen on real servers: an expired watch is an answer 200 with an ERROR event of code 410.

    status: of all answers; watch_status: of watches; token: that it asks for; asked: queries it was sent
    """

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.version = 10
        self.status, self.watch_status, self.token = 200, 200, "right"
        self.url = ""
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._events: list[Any] = []
        self._changed = threading.Condition()
        self._over = False
        stand_in = self

        class Handler(Answering):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
                stand_in.asked.append((parts.path, query))
                wrong = self.headers.get("Authorization") != f"Bearer {stand_in.token}"
                status = 401 if wrong else stand_in.watch_status if "watch" in query else stand_in.status
                status = status if status != 200 else stand_in.status
                if status != 200:
                    said = {"kind": "Status", "code": status, "message": "Unauthorized" if wrong else "Expired"}
                    self.answer(status, json.dumps(said).encode())
                elif "watch" in query:
                    self._watch(int(query["resourceVersion"]), query)
                else:
                    items = [one for one in stand_in.items if selected(one, query)]
                    listed = {"metadata": {"resourceVersion": str(stand_in.version)}, "items": items}
                    self.answer(200, json.dumps(listed).encode())

            def _watch(self, since: int, query: dict[str, str]) -> None:
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                shown = 0
                while True:
                    with stand_in._changed:
                        stand_in._changed.wait_for(lambda seen=shown: stand_in.more(seen), 10)
                        events = stand_in._events[shown:]
                        shown = len(stand_in._events)
                        if stand_in._over:
                            return
                    for version, event in events:
                        if version > since and selected(event["object"], query):
                            line = json.dumps(event).encode() + b"\n"
                            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                            if event["type"] == "ERROR":
                                self.wfile.write(b"0\r\n\r\n")
                                return

        super().__init__(Handler)

    def more(self, seen: int) -> bool:
        return self._over or len(self._events) > seen

    def say(self, kind: str, thing: Any, forget: bool = False) -> None:
        """An event of the watch. forget: those before, too (as after a compaction)."""
        with self._changed:
            self.version += 1
            if "metadata" in thing:
                thing["metadata"]["resourceVersion"] = str(self.version)
            if forget:
                self._events.clear()
            self._events.append((self.version, {"type": kind, "object": thing}))
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        super().close()


def selected(thing: Any, query: dict[str, str]) -> bool:
    """Whether the query's label selector fits; what has no labels (an error, a bookmark) is for everybody."""
    labels = thing.get("metadata", {}).get("labels")
    name, _, value = query.get("labelSelector", "").partition("=")
    return labels is None or not name or labels.get(name) == value
