"""HAProxy, nginx and Envoy as local sidecars, from the configurations that lie here."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from fleet import HERE, free_ports

CONFIGURATIONS = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf", "envoy": "envoy.yaml"}
SERVER_LINES = {
    "haproxy": "    server s{number} 127.0.0.1:{port} weight {weight}",
    "nginx": "        server 127.0.0.1:{port} weight={weight} max_fails=3 fail_timeout=2s;",
    "envoy": "      {indent}- {{load_balancing_weight: {weight}, "
    "endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}",
}


def program(name: str) -> str | None:
    """Where a sidecar's program is; Envoy's may be named by the variable ENVOY."""
    return (os.environ.get("ENVOY") if name == "envoy" else None) or shutil.which(name)


class Sidecar:
    """A sidecar in front of some ports.

    port:     its own
    weights:  of the ports
    patience: seconds that it waits for an answer, and a sixth of those that a call may take
    """

    def __init__(
        self, name: str, ports: list[int], home: Path, weights: list[int] | None = None, patience: float = 0.5
    ) -> None:
        found = program(name)
        if found is None:
            raise SystemExit(f"no {name} here")
        [self.port] = free_ports(1)
        lines = [
            SERVER_LINES[name].format(number=n, port=port, weight=weight, indent="  ")
            for n, (port, weight) in enumerate(zip(ports, weights or [1] * len(ports), strict=True))
        ]
        marks = {"PORT": f"{self.port}", "HOME": f"{home}", "SERVERS": "\n".join(lines)}
        marks |= {"PATIENCE": f"{patience:g}s", "DEADLINE": f"{6 * patience:g}s"}
        marks |= {"PATIENCE_MS": f"{1000 * patience:.0f}ms", "DEADLINE_MS": f"{6000 * patience:.0f}ms"}
        text = (HERE / CONFIGURATIONS[name]).read_text()
        for mark, value in marks.items():
            text = text.replace(f"@{mark}@", value)
        path = home / CONFIGURATIONS[name]
        path.write_text(text)
        command = {
            "haproxy": [found, "-f", str(path), "-db"],
            "nginx": [found, "-c", str(path), "-p", str(home)],
            "envoy": [found, "-c", str(path), "--disable-hot-restart", "--concurrency", "1", "-l", "error"],
        }[name]
        with (home / f"{name}.out").open("w") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)
        until = time.monotonic() + 15
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{name} did not start:\n{(home / f'{name}.out').read_text()}") from None
                time.sleep(0.05)
        time.sleep(1.5)  # its first health checks

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
