"""Injecting: an attempt has a fault on purpose (`smartclient.faults`), before anything of it is sent."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

from ..faults import Fault
from ..services.attempt import Attempt
from ..support.loggers import CALL, about
from .context import TimeLeft
from .effects import Effect, Sleep
from .state import CallState

HEADER = "x-smartclient-injected"


def inject(state: CallState, attempt: Attempt, fault: Fault, timeouts: TimeLeft | None) -> Generator[Effect, Any, Any]:
    """What the fault makes of the attempt: a response in place of the server's; None: it is only late.

    A delay takes as long as a slow server might: no longer than the attempt's time, or httpx's for reading.
    """
    name, instance = state.service.name, attempt.node.instance
    attempt.injected = str(fault)
    CALL.info("%s: injected: a %s for %s", name, fault, instance, extra=about(name, instance))
    if fault.status is not None:
        return state.flavour.httpx.Response(fault.status, headers={HEADER: str(fault)}, content=b"")
    ends_at = None if timeouts is None else timeouts.ends_at
    left = math.inf if ends_at is None else max(ends_at - state.clock(), 0.0)
    read = state.timeouts.get("read")
    limit = min(left, math.inf if read is None else read)
    yield Sleep(min(fault.delay, limit))
    if fault.delay >= limit or attempt.overtaken or attempt.over:  # another attempt won meanwhile: nothing is sent
        raise state.flavour.httpx.ReadTimeout(f"injected: a {fault}")
    return None
