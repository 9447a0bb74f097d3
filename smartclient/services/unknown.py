"""Unknown names: services whose source has not said anything of them yet.

Names may be made of user input. So at most so many are watched at once; the others queue for their first list, first
come, first served. Whom nobody waits for any more makes room for those who are waited for, and is forgotten.
"""

from __future__ import annotations

from .service import Service

PATIENCE = 1.0  # seconds since its last call for which a service is kept although nobody waits: a call may be about to


class Unknown:
    """The unknown names of one client. (Its caller holds a lock.) most: that are watched at once"""

    def __init__(self, most: int) -> None:
        self._most = most
        self._watched: dict[str, Service] = {}
        self._queued: dict[str, Service] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._watched or name in self._queued

    def admit(self, service: Service, now: float) -> tuple[bool, list[Service]]:
        """A new one: whether it is to be watched at once; and which others are to be forgotten."""
        forgotten: list[Service] = []
        if len(self._watched) >= self._most:
            forgotten = [one for one in self._queued.values() if _is_left(one, now)]
            forgotten += [one for one in self._watched.values() if _is_left(one, now)][:1]
            for one in forgotten:
                self.leave(one.name)
        if len(self._watched) >= self._most or self._queued:
            self._queued[service.name] = service
            return False, forgotten
        self._watched[service.name] = service
        return True, forgotten

    def given_up(self, service: Service) -> bool:
        """A call waits no longer: whether the service is to be forgotten."""
        if service.name not in self or service.ready.fired or service.ready.awaited:
            return False
        return service.name in self._queued or bool(self._queued)

    def leave(self, name: str) -> None:
        """It is not unknown any more, or is forgotten."""
        self._watched.pop(name, None)
        self._queued.pop(name, None)

    def next(self) -> Service | None:
        """One whose turn has come."""
        if not self._queued or len(self._watched) >= self._most:
            return None
        name = next(iter(self._queued))
        self._watched[name] = service = self._queued.pop(name)
        return service


def _is_left(service: Service, now: float) -> bool:
    return not service.ready.awaited and now - service.used_at > PATIENCE
