"""Cached: the last good lists on disk, so that a process can start while the registry is down."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import describe
from ..instance import Instance, parse_all
from ..support.loggers import DISCOVERY
from ..support.untrusted import from_json
from .base import Discovery
from .combined import Fallback
from .wrapper import OverOne

MOST_BYTES = 64 << 20  # of a saved list
TEMPORARY = ".new-"
LEFT_BEHIND = 3600.0  # seconds after which a temporary file must belong to a dead process


class Cached(OverOne):
    """Another source, and its last good list of each service in a directory.

    after:    seconds that the source may be silent at the beginning before the saved list is used
    at_most:  seconds after which a saved list is too old
    now:      the wall clock

    A list is written atomically (rename), with a checksum. Only a regular file of the same user is read; a bad file is
    logged once and treated as missing.
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
        super().__init__(source)
        self.directory: Path = Path(directory)
        self._at_most = at_most
        self._now = now
        self._cleared_at = float("-inf")
        self._said: dict[str, str] = {}  # trouble with the list of a service
        self._either = Fallback(self.source, _Saved(self), after=after)

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
        """Write a list. Errors are only logged: the list in memory is what counts."""
        entries = [{**asdict(instance), "metadata": dict(instance.metadata)} for instance in instances]
        content = json.dumps(entries, sort_keys=True)
        text = json.dumps({"saved_at": self._now(), "checksum": _checksum(content), "instances": content})
        written = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            handle, written = tempfile.mkstemp(dir=self.directory, prefix=TEMPORARY)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(written, self._path(service))
            written = None
            self._clear()
        except OSError as error:
            self._say(service, f"the list could not be saved in {self.directory}: {describe(error)}")
        finally:
            if written is not None:
                _unlink(written)

    def load(self, service: str) -> tuple[Instance, ...] | None:
        """The saved list; None: there is none, it is too old, or damaged."""
        try:
            said = from_json(_content(self._path(service)))
            if said["checksum"] != _checksum(said["instances"]):
                raise ValueError("its checksum is wrong")
            age = self._now() - float(said["saved_at"])
            if not age > -LEFT_BEHIND:
                raise ValueError("it is of the future")
            instances = parse_all(from_json(said["instances"]), service)
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever is wrong with it
            self._say(service, f"the list saved in {self.directory} is not used: {describe(error)}")
            return None
        return instances if age <= self._at_most else None

    def _say(self, service: str, trouble: str) -> None:
        if self._said.get(service) != trouble:
            self._said[service] = trouble
            DISCOVERY.warning("%s: %s", service, trouble)

    def _clear(self) -> None:
        """Remove temporary files of processes that died while writing."""
        now = self._now()
        if now - self._cleared_at < LEFT_BEHIND:
            return
        self._cleared_at = now
        for path in self.directory.glob(f"{TEMPORARY}*"):
            try:
                if now - path.stat().st_mtime > LEFT_BEHIND:
                    _unlink(path)
            except OSError:  # another process was faster
                pass

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
        self.link_local = cached.link_local

    def covers(self, host: str) -> bool:
        return True

    def watch(self, service: str, stop: threading.Event) -> Iterator[Sequence[Instance]]:
        saved = self._cached.load(service)
        if saved:
            DISCOVERY.info("%s: a list saved %.0f s ago", service, self._cached.age(service) or 0.0)
        yield saved or ()

    def __str__(self) -> str:
        return f"the lists saved in {self._cached.directory}"


def _content(path: Path) -> bytes:
    """What is in a file. Raises OSError, or ValueError for anything but a regular file of our own: a pipe would
    block, a device has no end, and other users' files are not trusted.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no regular file")
        if hasattr(os, "geteuid") and about.st_uid not in (os.geteuid(), 0):
            raise ValueError("it belongs to somebody else")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES} bytes")
    return content


def _unlink(path: str | Path) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _checksum(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
