"""Watcher: the thread that runs a source's `watch` for one service and publishes what it yields.

1. Errors never reach a call: they are logged (once while unchanged), the source is asked again after a growing jittered
   pause, and the last good list stays in use. A source that yields a list and then fails at once counts as failing: the
   pause grows until a watch lasts long enough.
2. An entry that cannot be an address is refused with one log line; the others count.
3. A service unused for ten minutes is no longer watched; its next call starts again.
4. `stop` never waits longer than 0.1 s.
5. A list that took much work is followed by a pause, so that successive changes are processed together: they are in use
   within half a second, at low cost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from ..errors import describe
from ..events import DiscoveryFailed, DiscoveryRecovered, Observers
from ..instance import Instance
from ..support.hosts import is_link_local
from ..support.loggers import DISCOVERY, about
from ..support.untrusted import line, shown
from .base import Discovery, Listing, Unreadable, drop_of, problem_of

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0  # so that a recovered registry is noticed well within five seconds, connecting included
LASTED = 5.0  # a watch that lasted this many seconds was a good one
REST, LONGEST_REST = 8.0, 0.25  # pause after a list: a multiple of the seconds of work for it; at most so many seconds
LITTLE = 0.005  # seconds: after less work no pause is needed
IDLE_AFTER = 600.0
REMINDER = 60.0  # seconds between two lines about the same trouble
AT_MOST = 50_000  # instances of one service
JOIN_AT_MOST = 0.1


def standing_alone(
    service: str,
    discovery: Discovery,
    publish: Callable[[tuple[Instance, ...]], None],
    failed: Callable[[str], None],
) -> Watcher:
    """A watcher that belongs to no client: it is never idle, and nobody observes it."""
    return Watcher(
        service,
        discovery,
        publish=publish,
        failed=failed,
        used_at=time.monotonic,
        observers=Observers(),
        clock=time.monotonic,
        rng=Random(),
    )


class StopSignal(threading.Event):
    """The event a watch is given. It is set by itself, too, once its service has been unused for long."""

    def __init__(self, idle: Callable[[], bool]) -> None:
        super().__init__()
        self._idle = idle

    def is_set(self) -> bool:
        if not super().is_set() and self._idle():
            self.set()  # for good: a call in this very moment starts a new watch
        return super().is_set()


class Watcher:
    """Watches one service.

    publish:  called with each full list, in the watcher's thread
    failed:   called with the source's trouble, in words
    used_at:  when the service was last called
    running:  it watches, or its source's watch has returned; otherwise start a new one
    over:     its source's watch has returned: its last list is final
    """

    def __init__(
        self,
        service: str,
        discovery: Discovery,
        *,
        publish: Callable[[tuple[Instance, ...]], None],
        failed: Callable[[str], None],
        used_at: Callable[[], float],
        observers: Observers,
        clock: Callable[[], float],
        rng: Random,
    ) -> None:
        self._service = service
        self._discovery = discovery
        self._rules = discovery.of(service)
        self._publish = publish
        self._failed = failed
        self._observers = observers
        self._clock = clock
        self._rng = rng
        self._pause = FIRST_PAUSE
        self._said: str | None = None
        self._flapping = False  # it lists, and then fails at once
        self._say_at = 0.0  # when trouble that stays the same is said again
        self._listed = False  # it has published a list
        self._refused: set[str] = set()
        self.stop_signal: StopSignal = StopSignal(lambda: clock() - used_at() > IDLE_AFTER)
        self.running: bool = False
        self.over: bool = False
        self._thread = threading.Thread(target=self._run, name=f"smartclient-{service}", daemon=True)

    def start(self) -> None:
        self.running = True
        try:
            self._thread.start()
        except RuntimeError:  # no more threads to be had
            self.running = False
            raise

    def stop(self) -> None:
        """Wake the watch and have it end."""
        self.stop_signal.set()
        try:
            self._discovery.interrupt(self.stop_signal)
        except Exception:
            DISCOVERY.exception("%s: %s could not be interrupted", self._service, self._discovery)

    @property
    def alive(self) -> bool:
        """Whether its thread still runs."""
        return self._thread.is_alive()

    def join(self, timeout: float = JOIN_AT_MOST) -> None:
        # One made in a forked child may never have been started.
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            self._watch()
        finally:
            # Stopped, or unused for long. (A source whose watch has returned is not asked again.)
            self.running = self.over

    def _watch(self) -> None:
        while not self.stop_signal.is_set():
            began, published = self._clock(), False
            rested = time.thread_time()
            try:
                for addresses in self._discovery.watch(self._service, self.stop_signal):
                    if self.stop_signal.is_set():
                        return
                    self._published(addresses)
                    published = True
                    if not self._flapping or self._clock() - began > LASTED:
                        self._well(problem_of(addresses))
                    worked = time.thread_time() - rested
                    if worked > LITTLE:
                        self.stop_signal.wait(min(worked * REST, LONGEST_REST))
                    rested = time.thread_time()
                self.over = not self.stop_signal.is_set()
                return
            except Exception as error:
                if self.stop_signal.is_set():
                    return
                lasted = published and self._clock() - began > LASTED
                if lasted:
                    self._pause, self._said = FIRST_PAUSE, None
                self._flapping = not lasted and (published or self._flapping)
                pause = self._trouble(describe(error))
            self.stop_signal.wait(pause)

    def _published(self, addresses: Iterable[Any]) -> None:
        if isinstance(addresses, (str, bytes)):
            raise TypeError(f"{self._discovery}: expected a list of addresses, got {shown(addresses)}")
        instances = []
        problem = None
        judges = not (self._rules.judged or self._rules.link_local)
        for number, address in enumerate(addresses):
            if number >= AT_MOST:
                DISCOVERY.warning("%s: %s lists more than %d instances; the rest is refused", self._service,
                               self._discovery, AT_MOST)  # fmt: skip
                break
            try:
                if isinstance(address, Unreadable):
                    raise ValueError(address.reason)
                instance = Instance.parse(address)
                if judges and is_link_local(instance.host):
                    raise ValueError(f"{instance} is link-local (allow it with the source's link_local)")
                instances.append(instance)
            except Exception as error:  # an error in one entry does not affect the others
                problem = line(str(error))
                if problem not in self._refused and len(self._refused) < 1000:
                    self._refused.add(problem)
                    DISCOVERY.warning("%s: an entry of %s is refused: %s", self._service, self._discovery, problem)
        if problem is not None and not instances:
            raise ValueError(f"no entry can be an address; the last: {problem}")  # that is no empty list
        self._publish(Listing(instances, drop_of(addresses)))
        self._listed = True

    def _well(self, problem: str | None) -> None:
        """The source has answered. problem: the error of a part, if the rest is good"""
        if problem is not None:
            self._say(f"a part of {self._discovery} failed: {problem}; the rest is used", problem)
            self._tell(problem, 0.0)
        elif self._said is not None:
            DISCOVERY.info("%s: %s answers again", self._service, self._discovery, extra=about(self._service))
            if self._observers:
                self._observers(DiscoveryRecovered(self._service, str(self._discovery)))
        self._pause, self._said, self._flapping = FIRST_PAUSE, problem, False

    def _trouble(self, problem: str) -> float:
        pause = self._pause * (0.5 + 0.5 * self._rng.random())
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        kept = "the last good list stays in use" if self._listed else "there is no list yet"
        self._say(f"{self._discovery} failed: {problem}; {kept}", problem)
        self._said = problem
        self._tell(problem, pause)
        return pause

    def _say(self, text: str, problem: str) -> None:
        """In the log, once a minute while it stays the same."""
        now = self._clock()
        again = problem == self._said and now < self._say_at
        if not again:
            self._say_at = now + REMINDER
        DISCOVERY.log(
            logging.DEBUG if again else logging.WARNING, "%s: %s", self._service, text, extra=about(self._service)
        )

    def _tell(self, problem: str, pause: float) -> None:
        self._failed(problem)
        if self._observers:
            self._observers(DiscoveryFailed(self._service, str(self._discovery), problem, pause))
