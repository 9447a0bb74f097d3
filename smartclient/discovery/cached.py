"""Cached: the last good lists on disk, so that a process that starts while the registry is down works all the same."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..events import logger
from ..instance import Instance
from .base import Discovery
from .combined import Fallback


class Cached(Discovery):
    """Another source, and its last good list of each service in a directory.

    after:    seconds that the source may be silent at the beginning before the saved list is used
    at_most:  seconds after which a saved list is too old
    now:      the wall clock

    A list is written in one step (rename), with a checksum; one that is damaged counts as none.
    """

    def __init__(
        self,
        source: Any,
        directory: str | os.PathLike[str],
        *,
        after: float = 2.0,
        at_most: float = 7 * 86_400.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        from . import discovery_of

        made = discovery_of(source)
        if made is None:
            raise TypeError("Cached: expected a source, got None")
        self.source = made
        self.grace = made.grace
        self.directory = Path(directory)
        self._at_most = at_most
        self._now = now
        self._either = Fallback(made, _Saved(self), after=after)

    def covers(self, host: str) -> bool:
        return host in self.services if self.services is not None else self.source.covers(host)

    def watch(self, service: str, stop: threading.Event) -> Iterator[Sequence[Instance]]:
        saved = self.load(service)
        for instances in self._either.watch(service, stop):
            if instances and tuple(instances) != saved:
                self.save(service, instances)
                saved = tuple(instances)
            yield instances

    def interrupt(self, stop: threading.Event) -> None:
        self._either.interrupt(stop)

    def __str__(self) -> str:
        return f"{self.source}, saved in {self.directory}"

    def save(self, service: str, instances: Sequence[Instance]) -> None:
        """Write a list. Trouble is logged, and no more: the list in memory is what counts."""
        entries = [{**asdict(instance), "metadata": dict(instance.metadata)} for instance in instances]
        content = json.dumps(entries, sort_keys=True)
        text = json.dumps({"saved_at": self._now(), "checksum": _checksum(content), "instances": content})
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            handle, path = tempfile.mkstemp(dir=self.directory, prefix=".new-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(path, self._path(service))
        except OSError as error:
            logger.warning("%s: the list could not be saved in %s: %s", service, self.directory, error)

    def load(self, service: str) -> tuple[Instance, ...] | None:
        """The saved list; None: there is none, it is too old, or damaged."""
        try:
            said = json.loads(self._path(service).read_text("utf-8"))
            if said["checksum"] != _checksum(said["instances"]):
                raise ValueError("its checksum is wrong")
            age = self._now() - float(said["saved_at"])
            instances = tuple(Instance(**entry) for entry in json.loads(said["instances"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s: the list saved in %s is not used: %s", service, self.directory, error)
            return None
        return instances if age <= self._at_most else None

    def age(self, service: str) -> float | None:
        """Seconds since the saved list was written; None: there is none."""
        try:
            return self._now() - os.stat(self._path(service)).st_mtime
        except OSError:
            return None

    def _path(self, service: str) -> Path:
        return self.directory / f"{re.sub(r'[^a-z0-9._-]', '_', service.lower())}-{_checksum(service)[:8]}.json"


class _Saved(Discovery):
    """What is on disk, as a source."""

    def __init__(self, cached: Cached) -> None:
        self._cached = cached

    def covers(self, host: str) -> bool:
        return True

    def watch(self, service: str, stop: threading.Event) -> Iterator[Sequence[Instance]]:
        saved = self._cached.load(service)
        if saved:
            logger.info("%s: a list saved %.0f s ago", service, self._cached.age(service) or 0.0)
        yield saved or ()

    def __str__(self) -> str:
        return f"the lists saved in {self._cached.directory}"


def _checksum(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
