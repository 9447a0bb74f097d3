"""Faults on purpose, for people's staging tests (Envoy: the HTTP fault filter): a share of a service's attempts is
answered with a status, or held up, here and not by a server.

    SMARTCLIENT_FAULTS="orders:503@10%,payments:delay=200ms@5%"

In a configuration file: `faults: {orders: 503@10%, "*.eu": [delay=200ms@5%, 429@1%]}`. A fault belongs to one attempt
and comes before its connection: so retries, ejection and deadlines can be rehearsed, and it counts for health and
budgets as if the server had done it. Reports and events of such an attempt name it (`injected`). Off unless it is said,
and then said loudly: a WARNING of `smartclient.config` for each client.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from .support.durations import EXPECTED, seconds_in
from .support.hosts import matching_name, pattern_name
from .support.untrusted import shown

VARIABLE = "SMARTCLIENT_FAULTS"
FORM = "a fault like 503@10% or delay=200ms@5%"
_FAULT = re.compile(r"\s*(?:(\d{3})|delay=([^@,\s]{1,20}))@(\d{1,3}(?:\.\d{1,9})?)%\s*")


@dataclass(frozen=True)
class Fault:
    """One fault.

    share:   of the attempts, from 0 to 1
    status:  what they are answered; None: they are held up
    delay:   seconds that they are held up, before anything is sent
    """

    share: float
    status: int | None = None
    delay: float = 0.0

    def __str__(self) -> str:
        return f"{f'delay of {self.delay:g} s' if self.status is None else f'status {self.status}'}"


Faults = Mapping[str, tuple[Fault, ...]]
"""By names of services, or globs."""


NO_FAULTS: Faults = {}


def faults_from(written: str) -> tuple[Fault, ...]:
    """ "503@10%", or several with commas. Raises ValueError."""
    return tuple(_fault(one) for one in written.split(","))


def _fault(written: str) -> Fault:
    found = _FAULT.fullmatch(written)
    if found is None:
        raise ValueError(f"expected {FORM}, got {shown(written)}")
    status, delay, percent = found.groups()
    if not 0 < float(percent) <= 100:
        raise ValueError(f"expected more than 0 and at most 100 percent, got {shown(written)}")
    share = float(percent) / 100
    if status is not None:
        if not 200 <= int(status) <= 599:
            raise ValueError(f"expected a status from 200 to 599, got {shown(written)}")
        return Fault(share, int(status))
    seconds = seconds_in(delay)
    if seconds is None:
        raise ValueError(f"expected {EXPECTED}, got {shown(written)}")
    return Fault(share, None, seconds)


def faults_of_environment(written: str) -> dict[str, tuple[Fault, ...]]:
    """ "orders:503@10%,payments:delay=200ms@5%". Raises ValueError."""
    faults: dict[str, tuple[Fault, ...]] = {}
    for one in filter(str.strip, written.split(",")):
        name, colon, fault = one.strip().rpartition(":")
        if not colon:
            raise ValueError(f"{VARIABLE}: expected SERVICE:FAULT, {FORM}; got {shown(one)}")
        try:
            key = pattern_name(name)
            faults[key] = (*faults.get(key, ()), *faults_from(fault))
        except ValueError as error:
            raise ValueError(f"{VARIABLE}: {error}") from None
    return faults


def faults_for(service: str, faults: Faults) -> tuple[Fault, ...]:
    """Of one service: those of its name, else of the longest glob that matches."""
    name = matching_name(service, faults)
    return () if name is None else faults[name]


def drawn(faults: tuple[Fault, ...], rng: Random) -> Fault | None:
    """The fault of an attempt, if it has one: each has its share, the first that is drawn counts."""
    return next((fault for fault in faults if rng.random() < fault.share), None)
