"""Runs the shop: Consul, three services, the gateway, and Prometheus if there is one.

    pip install 'smartclient[dev]'
    python run.py

Needs `consul` on the path (or CONSUL_BINARY). Ctrl-C ends it all.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent
POLICIES = HERE / "smartclient.yaml"
SERVICES = ("orders", "orders", "users", "stock")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Shop:
    """All its processes. A context manager: they end with it.

    consul:       the address of an agent that is there; None: one is started
    environment:  for every process, beside ours
    policies:     the text of their file
    """

    def __init__(
        self,
        *,
        consul: str | None = None,
        port: Callable[[], int] = free_port,
        environment: dict[str, str] | None = None,
        policies: str = POLICIES.read_text(),
    ) -> None:
        self._consul = consul
        self._port = port
        self._environment = environment or {}
        self._policies = policies
        self._processes: list[subprocess.Popen[bytes]] = []
        self.home = Path(tempfile.mkdtemp(prefix="shop-"))
        self.services: list[tuple[str, subprocess.Popen[bytes]]] = []
        self.gateway = f"http://127.0.0.1:{port()}"
        self.prometheus: str | None = None

    def __enter__(self) -> Shop:
        try:
            if self._consul is None:
                self._consul = self._start_consul()
            self.configure(self._policies)
            for service in SERVICES:
                self.services.append((service, self._serve(service, self._port(), 1)))
            self._serve("gateway", int(self.gateway.rpartition(":")[2]), 2)
            self._start_prometheus()
            _until(lambda: httpx.get(f"{self.gateway}/ready", timeout=5).status_code == 200, "the gateway")
        except BaseException:
            print(self.logs(), file=sys.stderr)
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def _start(self, name: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=HERE, stdout=log, stderr=log, env={**os.environ, **self._environment, **environment}
            )
        self._processes.append(process)
        return process

    def _start_consul(self) -> str:
        http = self._port()
        config = {"ports": {"http": http, "dns": -1, "grpc": -1, "serf_wan": -1, "serf_lan": self._port(),
                            "server": self._port()}, "bind_addr": "127.0.0.1", "log_level": "ERROR"}  # fmt: skip
        (self.home / "consul.json").write_text(json.dumps(config))
        program = os.environ.get("CONSUL_BINARY") or "consul"
        self._start("consul", program, "agent", "-dev", f"-config-file={self.home}/consul.json")
        address = f"127.0.0.1:{http}"
        _until(lambda: httpx.get(f"http://{address}/v1/status/leader").json(), "Consul")
        return address

    def _serve(self, service: str, port: int, workers: int) -> subprocess.Popen[bytes]:
        metrics = self.home / f"metrics-{service}-{port}"
        metrics.mkdir()
        return self._start(
            f"{service}-{port}", sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "shop:app",
            SHOP_SERVICE=service, SHOP_PORT=str(port), WEB_CONCURRENCY=str(workers),
            PROMETHEUS_MULTIPROC_DIR=str(metrics), CONSUL_HTTP_ADDR=str(self._consul),
            SMARTCLIENT_CONFIG=str(self.home / "config" / "smartclient.yaml"),
        )  # fmt: skip

    def configure(self, text: str) -> None:
        """Change the policies, as Kubernetes changes a ConfigMap: a new folder, and a link that is put in its place."""
        folder = self.home / "config"
        folder.mkdir(exist_ok=True)
        new = folder / f"..{time.time_ns()}"
        new.mkdir()
        (new / "smartclient.yaml").write_text(text.replace("127.0.0.1:8500", str(self._consul)))
        link = folder / "..data.new"
        link.symlink_to(new.name)
        os.replace(link, folder / "..data")
        if not (folder / "smartclient.yaml").is_symlink():
            (folder / "smartclient.yaml").symlink_to("..data/smartclient.yaml")

    def _start_prometheus(self) -> None:
        program = shutil.which("prometheus")
        if program is None:
            return
        port = self._port()
        scraped = {"job_name": "shop", "static_configs": [{"targets": [self.gateway.removeprefix("http://")]}]}
        rules = HERE.parent / "observability" / "alerts.yml"
        config: dict[str, Any] = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [scraped],
        }
        (self.home / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        self._start("prometheus", program, f"--config.file={self.home}/prometheus.yml",
                    f"--storage.tsdb.path={self.home}/data", f"--web.listen-address=127.0.0.1:{port}")  # fmt: skip
        self.prometheus = f"http://127.0.0.1:{port}"
        _until(lambda: httpx.get(f"{self.prometheus}/-/ready").status_code == 200, "Prometheus")

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.home.glob("*.log")))


def _until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        try:
            if condition():
                return
        except (httpx.HTTPError, ValueError):
            pass
        time.sleep(0.1)
    raise RuntimeError(f"{what} did not start within {seconds:g} s")


def main() -> None:
    with Shop() as shop:
        print(f"the shop:    {shop.gateway}/shop/7")
        print(f"its metrics: {shop.gateway}/metrics")
        if shop.prometheus is not None:
            print(f"Prometheus:  {shop.prometheus}/graph")
        for service, process in shop.services:
            print(f"kill {process.pid}  # an instance of {service}: the shop goes on")
        print(f"its policies: {shop.home}/config/smartclient.yaml  # change it while it runs")
        print("Ctrl-C ends it.", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
