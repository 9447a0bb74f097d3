"""Watching a configuration file: a change is checked whole, and taken whole.

A change is seen by the file's device, inode, size and time, of what its path leads to now (editors that write a new
file, renames, Kubernetes' symlinked ConfigMaps), and then by a hash of its content. One that is being written in place
is left alone until it rests; an empty one is never valid. What is wrong is said once per content; going back to the
good content clears it.
"""

from __future__ import annotations

import os
import threading
import weakref
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from ..support.loggers import CONFIG
from .config import Config, ConfigError, config_in
from .reading import content_of
from .said import BadFile, Problem

INTERVAL = 0.5  # seconds between two looks
SETTLES = 0.1  # seconds that a changed file must stay as it is: half of it may be valid
Signature = tuple[int, ...]


class Follower(Protocol):
    """Who follows the file: a transport."""

    def load(self, config: Config) -> None:
        """Take another configuration."""

    def reject(self, problems: tuple[str, ...]) -> None:
        """The file is wrong."""


class ConfigWatch:
    """The watch of one client: a thread, which does not keep the client alive."""

    def __init__(self, config: Config, follower: Follower, interval: float = INTERVAL) -> None:
        self._config: Config = config
        self._follower = weakref.ref(follower)
        self._interval = interval
        self._stop = threading.Event()
        self._signature: Signature | None = None
        self._digest = b""
        self._begin()

    def close(self) -> None:
        self._stop.set()

    def after_fork(self) -> None:
        """In a forked child: the thread is gone."""
        if not self._stop.is_set():
            self._stop = threading.Event()
            self._signature, self._digest = None, b""  # the thread may have been in the middle of a change
            self._begin()

    def _begin(self) -> None:
        thread = threading.Thread(
            target=_watch, args=(weakref.ref(self), self._stop, self._interval), name="smartclient-config", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # no more threads to be had
            CONFIG.warning("%s is not watched: %s", self._config.path, error)

    def inspect(self) -> bool:
        """Whether the file has changed, or there is nobody to tell: then it is taken, or rejected."""
        follower: Any = self._follower()
        if follower is None:
            self._stop.set()
            return False
        signature = signature_of(self._config.path)
        if signature == self._signature and signature is not None:
            return False
        if (self._digest and self._stop.wait(SETTLES)) or signature_of(self._config.path) != signature:
            return False  # somebody is writing it in place: the next look finds it whole
        try:
            content = content_of(self._config.path)
        except BadFile as error:
            content, problem = b"", Problem(error.line, "", str(error)).of(self._config.path)
        else:
            problem = ""
        digest = blake2b(content + problem.encode()).digest()
        self._signature = signature
        if digest == self._digest:
            return False
        first, self._digest = not self._digest, digest
        if problem:
            follower.reject((problem,))
            return True
        try:
            config = config_in(content, self._config.path, self._config.environment, self._config)
            # What was read when the client was made is in force already; if it has changed since, it is not.
            if not (first and config == self._config):
                follower.load(config)
            self._config = config
        except ConfigError as error:
            follower.reject(error.problems)
        except Exception as error:  # a policy that this client cannot follow
            follower.reject((f"{self._config.path}: {error}",))
        return True


def signature_of(path: Path) -> Signature | None:
    """What tells a change; None: there is no such file."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _watch(watch: weakref.ref[ConfigWatch], stop: threading.Event, interval: float) -> None:
    while True:
        this = watch()
        if this is None or stop.is_set():
            return
        try:
            this.inspect()
        except Exception:
            CONFIG.exception("the configuration could not be looked at")
        del this
        stop.wait(interval)
