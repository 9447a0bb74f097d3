"""Racers: the threads in which hedged attempts of the blocking client run.

Bounded: where there are none to spare a call is not hedged. An attempt that has lost finds its connection shut down, so
its thread is soon free again; one that is still connecting stays until then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any

from ..call import Attempt
from ..effects import Race

THREADS = 64

Ended = tuple[Attempt, Any, "Exception | None"]


class Racers:
    """Of one client. Threads start as they are needed."""

    def __init__(self, threads: int = THREADS) -> None:
        self._free = threading.BoundedSemaphore(threads)
        self._threads = threads
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def race(self, race: Race, run: Callable[[Attempt], Any]) -> Ended:
        """Perform a race. run: an attempt, to its response."""
        track = Track(run)
        if not self._start(track, race.first):  # no thread to be had: here, alone
            try:
                return race.first, run(race.first), None
            except Exception as error:
                return race.first, None, error
        out, may_start = {race.first}, True
        due = time.monotonic() + race.after
        try:
            while True:
                ended = track.next(max(0.0, due - time.monotonic()) if may_start else None)
                if ended is not None:
                    out.discard(ended[0])
                    if ended[2] is None and race.good(ended[1]):
                        return ended
                if may_start and (ended is None or not out):
                    another = race.more()
                    may_start = another is not None
                    if another is not None:
                        due = time.monotonic() + race.after
                        if self._start(track, another):
                            out.add(another)
                        else:
                            another.finish()
                            may_start = False
                if ended is not None:
                    if not out:
                        return ended
                    race.settled(*ended)
                    if ended[1] is not None:
                        ended[1].close()
        finally:
            track.close()
            for attempt in out:
                race.overtaken(attempt)
                if attempt.node.connections is not None:
                    attempt.node.connections.cut(attempt)

    def close(self) -> None:
        with self._lock:
            if self._executor is not None:
                self._executor.shutdown(wait=False)
                self._executor = None

    def _start(self, track: Track, attempt: Attempt) -> bool:
        if not self._free.acquire(blocking=False):
            return False

        def run() -> None:
            try:
                track.run(attempt)
            finally:
                self._free.release()

        try:
            with self._lock:
                if self._executor is None:
                    self._executor = ThreadPoolExecutor(self._threads, "smartclient-hedge")
                self._executor.submit(copy_context().run, run)
        except RuntimeError:  # no more threads, or the interpreter is about to exit
            self._free.release()
            return False
        return True


class Track:
    """One race: where the attempts that end are heard of, as long as anybody listens."""

    def __init__(self, run: Callable[[Attempt], Any]) -> None:
        self._run = run
        self._ended: SimpleQueue[Ended] = SimpleQueue()
        self._lock = threading.Lock()
        self._over = False

    def run(self, attempt: Attempt) -> None:
        """In a thread of its own."""
        response: Any = None
        error: Exception | None = None
        try:
            response = self._run(attempt)
        except Exception as caught:
            error = caught
        with self._lock:
            if not self._over:
                self._ended.put((attempt, response, error))
                return
        _forget(attempt, response)

    def next(self, timeout: float | None) -> Ended | None:
        """The next attempt that ends; None: none within that time."""
        try:
            return self._ended.get(timeout=timeout)
        except Empty:
            return None

    def close(self) -> None:
        """Nobody listens any more."""
        with self._lock:
            self._over = True
        while True:
            try:
                attempt, response, _ = self._ended.get_nowait()
            except Empty:
                return
            _forget(attempt, response)


def _forget(attempt: Attempt, response: Any) -> None:
    attempt.overtake()
    if response is not None:
        response.close()
    attempt.finish()
