"""File: lists of instances in a file, watched. JSON, YAML, TOML, or what Prometheus calls file_sd.

    {"orders": ["10.0.0.1:8080", {"host": "10.0.0.2", "port": 8080, "weight": 2}], "users": [...]}
    [{"targets": ["10.0.0.1:8080"], "labels": {"job": "orders", "zone": "eu-1a"}}]           (file_sd)

A change is seen by the file's time, size and inode, through symlinks: editors that write a new file, atomic renames and
Kubernetes' ConfigMap updates all change one of them. If a file cannot be read or parsed, the last good lists stay in
use, and the error names the line.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote

from ..support.hosts import wire_name
from ..support.toml_text import from_toml
from ..support.untrusted import from_json, shown
from .base import Addresses, Discovery
from .options import Option, check_options, read_options, seconds, text
from .threads import Lock
from .yaml_loader import bounded

OPTIONS: dict[str, Option] = {"format": text, "interval": seconds()}
UNKNOWN_INTERVAL = 1.0  # seconds between two looks for a service that is not known
JOB_LABELS = ("service", "job", "__meta_service")


class File(Discovery):
    """The services of one file; it covers those it names.

    path:      of the file
    format:    "json", "yaml", "toml"; None: by its name
    interval:  seconds between two looks at the file
    """

    def __init__(self, path: str | os.PathLike[str], *, format: str | None = None, interval: float = 0.5) -> None:
        check_options("File", OPTIONS, locals())
        self.path: Path = Path(path)
        suffix = self.path.suffix.lower().lstrip(".")
        self.format: str = format or {"yml": "yaml"}.get(suffix, suffix)
        if self.format not in PARSERS:
            raise ValueError(f"File.format: expected json, yaml or toml, got {self.format!r} ({self.path})")
        self.interval = interval
        self.grace: float = 0.0  # an empty list in a file is intended
        self._lock = Lock()
        self._read: tuple[object, Mapping[str, Addresses]] = (None, {})
        self._looked_at = float("-inf")

    @classmethod
    def from_url(cls, parts: SplitResult, options: Mapping[str, list[str]]) -> File:
        """`file:///etc/services.yaml?interval=1`."""
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"file://{parts.netloc}…: a file has three slashes: file:///etc/services.yaml")
        return cls(unquote(parts.path), **read_options("file", options, OPTIONS))

    def covers(self, host: str) -> bool:
        if self.services is not None:
            return host in self.services
        if host not in self._read[1] and time.monotonic() - self._looked_at > UNKNOWN_INTERVAL:
            self._looked_at = time.monotonic()
            try:
                self._current()
            except Exception:
                pass  # a watch will report it; this is called for requests to any host
        return host in self._read[1]

    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        shown: object = None
        while not stop.is_set():
            signature, services = self._current()
            if signature != shown:
                shown = signature
                yield services.get(service, ())
            stop.wait(self.interval)

    def __str__(self) -> str:
        return f"file {self.path}"

    def _current(self) -> tuple[object, Mapping[str, Addresses]]:
        """What the file says now. All watches of a file share one reading of it."""
        with self._lock:
            stat = os.stat(self.path)
            signature = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if signature != self._read[0]:
                self._read = (signature, parsed(self.path.read_text("utf-8"), self.format))
            return self._read


def parsed(content: str, format: str) -> dict[str, Addresses]:
    """The services of a file's text. Raises ValueError that says where it is broken."""
    said = PARSERS[format](content)
    if isinstance(said, list):
        return _from_prometheus(said)
    if not isinstance(said, dict):
        raise ValueError(f"expected services with their addresses, got {type(said).__name__}")
    services: dict[str, Addresses] = {}
    said = said.get("services", said)
    if not isinstance(said, dict):
        raise ValueError(f"services: expected names with their addresses, got {type(said).__name__}")
    for name, addresses in said.items():
        if not isinstance(addresses, list):
            raise ValueError(f"service {shown(name)}: expected a list of addresses, got {shown(addresses)}")
        services[wire_name(str(name))] = addresses
    return services


def _from_prometheus(groups: list[Any]) -> dict[str, Addresses]:
    """file_sd: the service is the label "service", else "job"; the other labels are metadata, "zone" the zone."""
    services: dict[str, list[Any]] = {}
    for group in groups:
        if not isinstance(group, dict) or not isinstance(group.get("targets"), list):
            raise ValueError(f"file_sd: expected {{'targets': […], 'labels': {{…}}}}, got {shown(group)}")
        if not isinstance(group.get("labels") or {}, dict):
            raise ValueError(f"file_sd: expected labels as an object, got {shown(group)}")
        labels = {str(key): str(value) for key, value in (group.get("labels") or {}).items()}
        name = next((labels[label] for label in JOB_LABELS if label in labels), None)
        if name is None:
            raise ValueError(f"file_sd: a group without the label 'service' or 'job': {shown(group)}")
        known = services.setdefault(wire_name(name), [])
        known += [{"address": target, "zone": labels.get("zone"), "metadata": labels} for target in group["targets"]]
    return dict(services)


def _json(content: str) -> Any:
    try:
        return from_json(content)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}") from None


def _yaml(content: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise ImportError("YAML files need the package PyYAML: pip install 'smartclient[yaml]'") from None
    try:
        return yaml.load(content, bounded(yaml))
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ValueError(f"{line}{error.problem or error}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


PARSERS: dict[str, Callable[[str], Any]] = {"json": _json, "yaml": _yaml, "toml": from_toml}
