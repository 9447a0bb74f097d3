"""Sources made of others: `Merge` and `Fallback`. Each inner source has its own thread, pauses and last good list."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from ..instance import Instance, parse_all
from ..support.untrusted import shown
from .base import Discovery
from .threads import taken
from .watcher import Watcher, standing_alone
from .wrapper import Over

PATIENCE = 2.0  # seconds that a source may be silent, at the beginning, before the others are used alone

Lists = dict[int, tuple[Instance, ...]]


class Combined(Over):
    """Several sources, and a rule that combines their lists into one."""

    judged = True

    def __init__(self, *sources: Any) -> None:
        super().__init__(*sources)
        self._queues: dict[threading.Event, SimpleQueue[Any]] = {}
        self._last: dict[str, Lists] = {}  # what each source last said of a service, for its next watch

    def of(self, service: str) -> Discovery:
        """As strict as the strictest source that covers it: it is unknown which of them gave a name."""
        one = copy(self)
        known = [source.of(service) for source in self.sources if source.covers(service)]
        one.grace = max((source.grace for source in known), default=self.grace)
        one.link_local = all(source.link_local or source.known(service) is not None for source in known)
        return one

    @abstractmethod
    def combined(self, lists: Lists, failed: set[int], waited: float) -> Sequence[Instance] | None:
        """The list of them all; None: nothing to say yet.

        lists:   the latest of each source, by its number
        failed:  sources that are in trouble now
        waited:  seconds since the watch began
        """

    def watch(self, service: str, stop: threading.Event) -> Iterator[Sequence[Instance]]:
        queue = self._queues[stop] = SimpleQueue()
        state = _State(self, service)
        watchers = state.begin(queue)
        latest: Sequence[Instance] | None = None
        try:
            for watcher in watchers:
                watcher.start()
            while not stop.is_set():
                found = state.combined()
                if found is not None and found != latest:
                    latest = found
                    yield found
                try:
                    told = [taken(queue, stop, 0.5 if latest is None else None) or (-1, ())]
                except Empty:
                    continue
                while not queue.empty():  # what arrived together is combined together
                    told.append(queue.get())
                for number, said in told:
                    state.hear(number, said, first=latest is None)
        finally:
            self._queues.pop(stop, None)
            for watcher in watchers:
                watcher.stop()

    def last(self, service: str) -> Lists:
        """What each source last said of a service."""
        return self._last.get(service, {})

    def keep(self, service: str, number: int, instances: tuple[Instance, ...]) -> None:
        """For its next watch."""
        self._last.setdefault(service, {})[number] = instances

    def interrupt(self, stop: threading.Event) -> None:
        queue = self._queues.get(stop)
        if queue is not None:
            queue.put((-1, ()))

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()} of {', '.join(map(str, self.sources))}"


class _State:
    """What one watch knows of the sources: their latest lists, and which are in trouble."""

    def __init__(self, over: Combined, service: str) -> None:
        self._over = over
        self._service = service
        self._lists: Lists = {}
        self._failed: set[int] = set()
        self._began = time.monotonic()

    def begin(self, queue: SimpleQueue[Any]) -> list[Watcher]:
        """Watchers of those that must be watched. They put what they hear into the queue."""
        watchers = []
        for number, source in enumerate(self._over.sources):
            known = source.known(self._service) if source.covers(self._service) else ()
            if known is not None:
                self._lists[number] = parse_all(known, f"service {shown(self._service)}")
            else:
                say = partial(_say, queue, number)
                watchers.append(standing_alone(self._service, source, say, say))
        return watchers

    def combined(self) -> Sequence[Instance] | None:
        """The list of them all; None: nothing to say yet."""
        waited = time.monotonic() - self._began
        for number, instances in self._over.last(self._service).items():
            if number not in self._lists and (number in self._failed or waited >= PATIENCE):
                self._lists[number] = instances  # a source in trouble takes no instances away
        return self._over.combined(self._lists, self._failed, waited)

    def hear(self, number: int, said: tuple[Instance, ...] | str, first: bool) -> None:
        """Take a list, or an error text. Raises ConnectionError if there are only errors. first: no list is known"""
        if isinstance(said, str):
            self._failed.add(number)
            all_heard = all(one in self._failed or one in self._lists for one in range(len(self._over.sources)))
            if first and all_heard and self._over.combined(self._lists, self._failed, 0.0) is None:
                raise ConnectionError(said)
        elif number >= 0:
            self._failed.discard(number)
            self._lists[number] = said
            if said:
                self._over.keep(self._service, number, said)


def _say(queue: SimpleQueue[Any], number: int, said: tuple[Instance, ...] | str) -> None:
    queue.put((number, said))


class Merge(Combined):
    """The instances of all sources: several registries, or several regions. The `drop` of a source is ignored.

    priorities: added to the priority of each source's instances: `Merge(here, there, priorities=(0, 1))` goes there
                only as far as here cannot bear it
    """

    def __init__(self, *sources: Any, priorities: Sequence[int] | None = None) -> None:
        super().__init__(*sources)
        if priorities is not None and len(priorities) != len(self.sources):
            raise ValueError(f"Merge.priorities: expected {len(self.sources)} numbers, got {priorities!r}")
        self._priorities = tuple(priorities or (0,) * len(self.sources))

    def combined(self, lists: Lists, failed: set[int], waited: float) -> Sequence[Instance] | None:
        missing = any(number not in lists and number not in failed for number in range(len(self.sources)))
        if not lists or (missing and waited < PATIENCE):  # a partial list would drop the others' instances at a refresh
            return None
        if not any(lists.values()) and len(lists) < len(self.sources):  # no source that has answered covers it
            return None
        return tuple(
            replace(instance, priority=instance.priority + self._priorities[number])
            if self._priorities[number]
            else instance
            for number in sorted(lists)
            for instance in lists[number]
        )


class Fallback(Combined):
    """The first source that has instances.

    after: seconds that a source may be silent, at the beginning, before the next one is used
    """

    def __init__(self, *sources: Any, after: float = 2.0) -> None:
        super().__init__(*sources)
        if not isinstance(after, (int, float)) or not 0 <= after < float("inf"):
            raise ValueError(f"Fallback.after: expected seconds from 0 up, got {after!r}")
        self._after = after

    def combined(self, lists: Lists, failed: set[int], waited: float) -> Sequence[Instance] | None:
        for number in range(len(self.sources)):
            if lists.get(number):
                return lists[number]
            if number not in lists and number not in failed and waited < self._after:
                return None  # it may still answer
        return () if len(lists) == len(self.sources) else None
