"""Environment: instances from environment variables.

    SMARTCLIENT_SERVICE_ORDERS="10.0.0.1:80,10.0.0.2:80"                       ours
    ORDERS_SERVICE_HOST=10.0.0.1  ORDERS_SERVICE_PORT=80                       Kubernetes
    ORDERS_PORT_8080_TCP_ADDR=172.17.0.5  ORDERS_PORT_8080_TCP_PORT=8080       Docker links

The service `my-orders` is MY_ORDERS there.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from urllib.parse import SplitResult

from .base import Addresses, Discovery
from .options import read_options

PREFIX = "SMARTCLIENT_SERVICE_"


class Environment(Discovery):
    """The services that the environment names, read when they are first called. environ: in place of the process's."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ

    @classmethod
    def from_url(cls, parts: SplitResult, options: Mapping[str, list[str]]) -> Environment:
        """`env://`."""
        read_options("env", options, {})
        return cls()

    def covers(self, host: str) -> bool:
        return super().covers(host) and self._addresses(host) is not None

    def known(self, service: str) -> Addresses:
        return self._addresses(service) or ()

    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        yield self.known(service)

    def __str__(self) -> str:
        return "the environment"

    def _addresses(self, service: str) -> list[str] | None:
        """None: no variable names it."""
        environ, name = self._environ, re.sub(r"[^A-Z0-9]", "_", service.upper())
        ours = environ.get(PREFIX + name)
        if ours is not None:
            return [address.strip() for address in ours.split(",") if address.strip()]
        host, port = environ.get(f"{name}_SERVICE_HOST"), environ.get(f"{name}_SERVICE_PORT")
        if host and port:
            return [_address(host, port)]
        links = re.compile(rf"{name}_PORT_\d+_TCP_ADDR")
        found = [
            _address(value, environ[key.removesuffix("ADDR") + "PORT"])
            for key, value in environ.items()
            if links.fullmatch(key) and key.removesuffix("ADDR") + "PORT" in environ
        ]
        return found or None


def _address(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
