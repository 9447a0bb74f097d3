"""A small control plane for xDS: ADS by gRPC, state of the world, and REST-JSON. Envoy and we speak to the same one."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from agent import free_port
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import json_format

from smartclient.discovery.xds.messages import ENDPOINTS

EMPTY: dict[str, Any] = {}


def endpoint(address: str, weight: int | None = None, status: str = "HEALTHY", **more: Any) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    made: dict[str, Any] = {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}},
                            "health_status": status, **more}  # fmt: skip
    return made if weight is None else {**made, "load_balancing_weight": weight}


def group(*endpoints: Any, zone: str = "a", weight: int | None = None, priority: int = 0) -> dict[str, Any]:
    made: dict[str, Any] = {"locality": {"region": "eu", "zone": zone}, "lb_endpoints": list(endpoints),
                            "priority": priority}  # fmt: skip
    return made if weight is None else {**made, "load_balancing_weight": weight}


class ControlPlane(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """token: that it asks for;  asked: the requests it was sent;  refused: what clients did not accept"""

    def __init__(self, port: int = 0, rest_port: int = 0) -> None:
        self.token: str | None = None
        self.asked: list[Any] = []
        self.refused: list[str] = []
        self.port, self.rest_port = port or free_port(), rest_port or free_port()
        self.clusters: dict[str, Any] = {}
        self.version = 0
        self._changed = threading.Condition()
        self._over = False
        self._server: Any = None
        self._rest = ThreadingHTTPServer(("127.0.0.1", self.rest_port), self._handler())
        self._rest.daemon_threads = True
        threading.Thread(target=self._rest.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._over = False
        options = [("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 100)]
        self._server = grpc.server(ThreadPoolExecutor(max_workers=20), options=options)
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self, self._server)
        assert self._server.add_insecure_port(self.address) == self.port
        self._server.start()

    def stop(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._server.stop(0).wait()

    def close(self) -> None:
        self.stop()
        self._rest.shutdown()
        self._rest.server_close()

    def put(self, cluster: str, *groups: Any, policy: Any = EMPTY) -> None:
        """Set a cluster's endpoints and tell all who want to know."""
        said = {"cluster_name": cluster, "endpoints": list(groups), "policy": policy}
        self.put_raw(cluster, json_format.ParseDict(said, endpoint_pb2.ClusterLoadAssignment()))

    def put_raw(self, cluster: str, message: Any) -> None:
        with self._changed:
            self.clusters[cluster] = message
            self.version += 1
            self._changed.notify_all()

    def forget(self) -> None:
        self.clusters.clear()

    def StreamAggregatedResources(self, requests: Any, context: Any) -> Iterator[Any]:
        if self.token is not None and ("authorization", f"Bearer {self.token}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no such token")
        wanted: set[str] = set()
        sent: dict[str, Any] = {}
        gone = threading.Event()

        def read() -> None:
            try:
                for request in requests:
                    with self._changed:
                        self.asked.append(request)
                        if request.HasField("error_detail"):
                            self.refused.append(request.error_detail.message)
                        if request.type_url == ENDPOINTS:
                            wanted.clear()
                            wanted.update(request.resource_names)
                            for name in sent.keys() - wanted:
                                del sent[name]
                        self._changed.notify_all()
            except Exception:
                pass
            gone.set()
            with self._changed:
                self._changed.notify_all()

        threading.Thread(target=read, daemon=True).start()
        nonce = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: gone.is_set() or self._over or self._news(wanted, sent))
                if gone.is_set() or self._over:
                    return
                news = self._news(wanted, sent)
                sent.update(news)
                version = str(self.version)
            nonce += 1
            response = discovery_pb2.DiscoveryResponse(version_info=version, nonce=str(nonce), type_url=ENDPOINTS)
            for message in news.values():
                response.resources.add().Pack(message)
            yield response

    def _news(self, wanted: set[str], sent: dict[str, Any]) -> dict[str, Any]:
        return {name: self.clusters[name] for name in wanted
                if name in self.clusters and sent.get(name) is not self.clusters[name]}  # fmt: skip

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        plane = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                request = json_format.Parse(body, discovery_pb2.DiscoveryRequest())
                plane.asked.append(request)
                status, content = 200, b""
                if self.path != "/v3/discovery:endpoints":
                    status = 404
                elif plane.token is not None and self.headers.get("Authorization") != f"Bearer {plane.token}":
                    status, content = 401, b'{"message": "no such token"}'
                elif request.version_info == str(plane.version):
                    status = 304
                else:
                    response = discovery_pb2.DiscoveryResponse(version_info=str(plane.version), type_url=ENDPOINTS)
                    for name in request.resource_names:
                        if name in plane.clusters:
                            response.resources.add().Pack(plane.clusters[name])
                    content = json_format.MessageToJson(response).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_PUT(self) -> None:
                """The endpoints of the cluster that the path names."""
                plane.put(self.path[1:], *json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        return Handler


if __name__ == "__main__":
    ControlPlane(*map(int, sys.argv[1:]))
    threading.Event().wait()
