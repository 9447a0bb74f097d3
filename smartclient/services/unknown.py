"""Unknown names: services whose source has not said anything of them yet.

Names may be made of user input. So only a limited number is watched at once; the others queue for their first list,
first come, first served. A name that no call waits for is forgotten when others need its place.
"""

from __future__ import annotations

from .service import Service

PATIENCE = 1.0  # seconds since its last call for which a service is kept although no call waits: one may start to wait


class Unknown:
    """The unknown names of one client. (The caller holds a lock.) most: how many are watched at once"""

    def __init__(self, most: int) -> None:
        self._most = most
        self._watched: dict[str, Service] = {}
        self._queued: dict[str, Service] = {}
        self._left: set[str] = set()  # of those watched: a call has given up on them

    def queue(self, service: Service) -> None:
        """A new one: its turn is told by `next_in_turn`."""
        self._queued[service.name] = service

    def leave(self, name: str) -> None:
        """It is not unknown any more, or is forgotten."""
        self._watched.pop(name, None)
        self._queued.pop(name, None)
        self._left.discard(name)

    def given_up(self, service: Service) -> bool:
        """A call waits no longer: whether the service is to be forgotten."""
        name = service.name
        if service.ready.fired or service.ready.awaited:
            return False
        if self._watched.get(name) is service:
            self._left.add(name)
        return self._queued.get(name) is service

    def next_in_turn(self, now: float) -> tuple[list[Service], list[Service]]:
        """The services to be watched now, and those to be forgotten to make room."""
        begin: list[Service] = []
        forget: list[Service] = []
        while self._queued:
            if len(self._watched) >= self._most:
                left = next((one for one in self._watched.values() if self._is_left(one, now)), None)
                if left is None:
                    break
                self.leave(left.name)
                forget.append(left)
            name = next(iter(self._queued))
            self._watched[name] = service = self._queued.pop(name)
            begin.append(service)
        return begin, forget

    def _is_left(self, service: Service, now: float) -> bool:
        return not service.ready.awaited and (service.name in self._left or now - service.used_at > PATIENCE)
