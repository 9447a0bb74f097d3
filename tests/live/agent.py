"""A real Consul agent in development mode, on ports of its own."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]


def consul_program() -> str | None:
    """Where the agent's program is: `CONSUL_BINARY`, the path, or what `.ci/consul` gets from Debian."""
    named = os.environ.get("CONSUL_BINARY") or shutil.which("consul")
    if named:
        return named
    script = ROOT / ".ci" / "consul"
    if not script.exists() or shutil.which("apt-get") is None:
        return None
    done = subprocess.run([str(script)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


# Below the ports that the kernel gives to connections, each worker of pytest's from a place of its own: a port that is
# free now is still free when its server starts.
_ports = itertools.count(10_000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw7")[2:]) % 8 * 2750)


def free_port() -> int:
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Agent:
    def __init__(self, program: str, home: Path, **config: Any) -> None:
        self._program = program
        self._home = home
        self.port, self.dns_port = free_port(), free_port()
        self._config = {
            "ports": {"http": self.port, "dns": self.dns_port, "grpc": -1, "https": -1, "serf_wan": -1,
                      "serf_lan": free_port(), "server": free_port()},
            "bind_addr": "127.0.0.1",
            "log_level": "ERROR",
            **config,
        }  # fmt: skip
        self.token: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> Agent:
        config = self._home / "agent.json"
        config.write_text(json.dumps(self._config))
        log = (self._home / "agent.log").open("ab")
        self._process = subprocess.Popen(
            [self._program, "agent", "-dev", "-config-file", str(config)], stdout=log, stderr=log
        )
        log.close()
        ends_at = time.monotonic() + 30
        while time.monotonic() < ends_at:
            try:
                if httpx.get(f"http://{self.address}/v1/status/leader", trust_env=False).json():
                    return self
            except (httpx.TransportError, ValueError):
                pass
            time.sleep(0.05)
        raise RuntimeError("the Consul agent did not start: " + (self._home / "agent.log").read_text()[-2000:])

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def put(self, path: str, body: Any = None) -> Any:
        headers = {"X-Consul-Token": self.token} if self.token else {}
        response = httpx.put(f"http://{self.address}{path}", json=body, headers=headers, trust_env=False)
        response.raise_for_status()
        return response.json() if response.content else None

    def register(self, service: str, port: int, **more: Any) -> str:
        name = f"{service}-{port}"
        self.put("/v1/agent/service/register",
                 {"Name": service, "ID": name, "Address": "127.0.0.1", "Port": port, **more})  # fmt: skip
        return name

    def deregister(self, name: str) -> None:
        self.put(f"/v1/agent/service/deregister/{name}")
