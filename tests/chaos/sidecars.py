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
    "haproxy": "    server s{number} 127.0.0.1:{port}",
    "nginx": "        server 127.0.0.1:{port} max_fails=3 fail_timeout=2s;",
    "envoy": "      {indent}- endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}",
}


def program(name: str) -> str | None:
    """Where a sidecar's program is; Envoy's may be named by the variable ENVOY."""
    return (os.environ.get("ENVOY") if name == "envoy" else None) or shutil.which(name)


class Sidecar:
    """A sidecar in front of some ports. port: its own"""

    def __init__(self, name: str, ports: list[int], home: Path) -> None:
        found = program(name)
        if found is None:
            raise SystemExit(f"no {name} here")
        [self.port] = free_ports(1)
        lines = [SERVER_LINES[name].format(number=n, port=port, indent="  ") for n, port in enumerate(ports)]
        text = (HERE / CONFIGURATIONS[name]).read_text()
        for mark, value in (("@PORT@", str(self.port)), ("@HOME@", str(home)), ("@SERVERS@", "\n".join(lines))):
            text = text.replace(mark, value)
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
