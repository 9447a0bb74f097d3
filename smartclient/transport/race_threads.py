"""Race threads: those in which hedged attempts of the blocking client run.

Limited: if no thread is free, a call is not hedged. The connection of an attempt that has lost is shut down, so its
thread is soon free again. These are our own daemon threads: the interpreter waits at exit for an executor's threads,
and an executor that cannot start a thread still runs the call later.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any

from ..calls.effects import Ended, Race
from ..calls.race import Rules
from ..services.attempt import Attempt

THREADS = 64
IDLE_FOR = 30.0  # seconds after which a thread without work ends

Job = Callable[[], None]


class RaceThreads:
    """Of one client. Threads start as they are needed."""

    def __init__(self, threads: int = THREADS) -> None:
        self._most = threads
        self._lock = threading.Lock()
        self._threads = self._idle = 0
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._closed = False

    def race(self, race: Race, run: Callable[[Attempt], Any]) -> Ended:
        """Perform a race. run: an attempt, to its response."""
        check_not_patched_late()
        waiting = Waiting(run)
        if not self._start(waiting, race.first):  # no thread to be had: here, alone
            return race.first, run(race.first), None
        rules = Rules(race, time.monotonic())
        current: Ended | None = None
        try:
            while True:
                current = waiting.next(rules.patience(time.monotonic()))
                if current is not None and rules.wins(current):
                    result, current = current, None
                    return result
                another = rules.another(current, time.monotonic())
                if another is not None and not self._start(waiting, another):
                    rules.not_started(another)
                if current is not None:
                    if rules.counts(current):
                        result, current = current, None
                        return result
                    if current[1] is not None:
                        current[1].close()
                    current = None
        finally:
            waiting.close()
            if current is not None:
                _forget(current[0], current[1])
            for attempt in rules.out:
                race.overtaken(attempt)
                if attempt.node.connections is not None:
                    attempt.node.connections.cut(attempt)
                attempt.finish()  # its thread may hang on for a while where there is nothing to cut
            result = current = None  # type: ignore[assignment]  # an error in a frame of its own traceback

    def close(self) -> None:
        """Let threads without work go."""
        with self._lock:
            self._closed = True
            for _ in range(self._idle):
                self._jobs.put(None)

    def _start(self, waiting: Waiting, attempt: Attempt) -> bool:
        context = copy_context()

        def job() -> None:
            context.run(waiting.run, attempt)

        with self._lock:
            if self._closed:
                return False
            if self._idle:
                self._idle -= 1
                self._jobs.put(job)
                return True
            if self._threads >= self._most:
                return False
            self._threads += 1
        try:
            threading.Thread(target=self._work, args=(job,), name="smartclient-hedge", daemon=True).start()
        except RuntimeError:  # no more threads, or the interpreter is about to end
            with self._lock:
                self._threads -= 1
            return False
        return True

    def _work(self, job: Job | None) -> None:
        while job is not None:
            job()
            job = None  # its context and its call are not kept while there is nothing to do
            with self._lock:
                if self._closed:
                    break
                self._idle += 1
            while True:
                try:
                    job = self._jobs.get(timeout=IDLE_FOR)
                    break
                except Empty:
                    with self._lock:
                        if self._idle:  # else a job is on its way for one of us
                            self._idle -= 1
                            break
        with self._lock:
            self._threads -= 1


def check_not_patched_late() -> None:
    """Raises RuntimeError where gevent has replaced threads and queues after they were imported here: a call would wait
    on a queue of real threads, and stop the hub that runs all others for ever.
    """
    patched = sys.modules.get("gevent.monkey")
    if patched is not None and patched.is_module_patched("threading") and queue.SimpleQueue is not SimpleQueue:
        raise RuntimeError(
            "gevent has patched the standard library after smartclient was imported, and hedged calls would hang: "
            "call gevent.monkey.patch_all() first, before any other import"
        )


class Waiting:
    """One race: it receives the attempts that end, until it is closed."""

    def __init__(self, run: Callable[[Attempt], Any]) -> None:
        self._run = run
        self._ended: SimpleQueue[Ended] = SimpleQueue()
        self._lock = threading.Lock()
        self._over = False

    def run(self, attempt: Attempt) -> None:
        """In a thread of its own."""
        response: Any = None
        error: BaseException | None = None
        try:
            response = self._run(attempt)
        except BaseException as caught:
            error = caught
        with self._lock:
            if not self._over:
                self._ended.put((attempt, response, error))
                response = attempt = None  # type: ignore[assignment]
        error = None  # else it would be held by a frame of its own traceback
        if attempt is not None:
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
    try:
        if response is not None:
            response.close()
    finally:
        attempt.finish()
