"""Places: waiting for a turn, among the attempts of the service and those of the client."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

from ..support.waiting import Places
from .effects import Effect, WaitForTurn
from .state import CallState, Later


def try_places(all_places: Sequence[Places]) -> bool:
    """Take a place of each, if they are free."""
    if len(all_places) == 1:
        return all_places[0].try_take()
    for number, places in enumerate(all_places):
        if not places.try_take():
            leave_places(all_places[:number])
            return False
    return True


def leave_places(all_places: Sequence[Places]) -> None:
    for places in all_places:
        places.release()


def queue(state: CallState, last: Exception | None) -> Generator[Effect, Any, None]:
    """Wait for a place of the service, then for one of the client: so a waiting call holds no place of the client.

    last: the error of the attempt before
    """
    taken: list[Places] = []
    try:
        for places in state.places:
            if not places.try_take():
                yield from _wait(state, places, last)
            taken.append(places)
    except GeneratorExit:
        state.collected(Later(partial(leave_places, taken)))
        raise
    except BaseException:
        leave_places(taken)
        raise


def _wait(state: CallState, places: Places, last: Exception | None) -> Generator[Effect, Any, None]:
    admission, overloaded = state.service.admission, state.flavour.Overloaded
    limits = None if admission is None else admission.limits
    if admission is not None and limits is not None and places is admission.places:
        limit = "Policy.limits"
        patience: float | None = limits.queue_timeout
        if places.waiting >= limits.queue:
            state.refused = "limits"
            reason = f"{places.limit} attempts in progress and {places.waiting} calls waiting ({limit})"
            raise overloaded.of(state.service.name, reason) from last
    else:
        limit, patience = "httpx.Limits.max_connections", state.timeouts.get("pool")
    timeout, began = state.at_most(patience), state.clock()
    try:
        came = yield WaitForTurn(places, timeout)
    finally:
        state.queued += state.clock() - began
    if not came:
        if state.out_of_time():
            raise state.deadline_exceeded(f"waiting for a place ({limit})") from last
        state.refused = "limits"
        reason = f"{places.limit} attempts in progress ({limit}), none ended within {timeout:.3g} s"
        raise overloaded.of(state.service.name, reason) from last
