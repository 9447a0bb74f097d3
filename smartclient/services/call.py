"""Call: what a picker may ask about a call, and its attempts so far; and the options of one call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

from ..errors import annotate, say_where
from ..events import NodeFavoured
from ..node import Node
from ..policy import check_times
from ..reports import ATTRIBUTE, CallReport, Why
from ..retry.hedge import Hedge
from ..retry.retry import Retry
from ..support.checks import Check, flag, kind, metadata, optional, seconds, string
from .attempt import Attempt

EXTENSION = "smartclient"

_ids = itertools.count(1)


def next_id() -> int:
    """The number of a call, unique in the process. Counted for those that observers are told of."""
    return next(_ids)


@dataclass(frozen=True)
class CallOptions:
    """What one call asks for in place of its service's policy; `...`: as the policy says. Made by `call`."""

    hash_key: str | None = None
    deadline: float | EllipsisType | None = ...
    attempt_timeout: float | EllipsisType | None = ...
    retry: Retry | EllipsisType | None = ...
    prefer: Mapping[str, str] | EllipsisType | None = ...
    require: Mapping[str, str] | EllipsisType | None = ...
    hedge: Hedge | EllipsisType | None = ...
    explain: bool = False

    def __post_init__(self) -> None:
        for name, check in CHECKS.items():
            value = getattr(self, name)
            if value is not ...:
                check(f"call({name}=…)", value)
        if self.attempt_timeout is not ... and self.deadline is not ...:
            check_times("call(attempt_timeout=…)", self.attempt_timeout, self.deadline)


CHECKS: dict[str, Check] = {
    "hash_key": optional(string),
    "deadline": optional(seconds()),
    "attempt_timeout": optional(seconds()),
    "retry": optional(kind(Retry)),
    "prefer": optional(metadata),
    "require": optional(metadata),
    "hedge": optional(kind(Hedge)),
    "explain": flag,
}
NO_OPTIONS = CallOptions()


def call(
    *,
    hash_key: str | None = None,
    deadline: float | EllipsisType | None = ...,
    attempt_timeout: float | EllipsisType | None = ...,
    retry: Retry | EllipsisType | None = ...,
    prefer: Mapping[str, str] | EllipsisType | None = ...,
    require: Mapping[str, str] | EllipsisType | None = ...,
    hedge: Hedge | EllipsisType | None = ...,
    explain: bool = False,
) -> dict[str, Any]:
    """Extensions for one request: `client.get(url, extensions=smartclient.call(deadline=0.5))`.

    hash_key:         what balancers that hash go by; None: what `hash_on` reads in the request

    The others take the place of the policy's. What is not given is as the policy says; None turns it off:

    deadline:         seconds for the whole call
    attempt_timeout:  seconds for one attempt up to its response headers
    retry:            a `Retry`
    hedge:            a `Hedge`
    prefer:           metadata ({"version": "v2"}): instances that have it are used while there are any
    require:          metadata: no other instances are used; none has it: NoInstances

    explain:          each attempt's report says why its instance was picked (`report(response).attempts[0].why`): who
                      was compared, what each would have cost, who was left out
    """
    return {EXTENSION: CallOptions(hash_key, deadline, attempt_timeout, retry, prefer, require, hedge, explain)}


class Call:
    """A call in progress: what a picker sees (`PickCall`), and its attempts so far.

    id:         its number; 0: nobody observes it
    retried:    it is made for a request that is itself a retry
    repeatable: the first attempt may be followed by another, so it may be risked on a node that is being tried out
    within:     a further condition of `usable`: the bound on a node's load
    rather:     nodes that its next attempt should go to, if there are any
    prefers:    the node of the request before it in the same auth flow: a challenge is answered where it was made
    remarked:   what its picker said of a node
    why:        why its latest node was picked, if it asks
    free:       attempts that never reached a server, and were not counted
    served:     the node whose response it returned, unless that was a redirect
    """

    __slots__ = (
        "attempt",
        "attempts",
        "finished",
        "free",
        "id",
        "now",
        "options",
        "prefers",
        "rather",
        "remarked",
        "repeatable",
        "request",
        "retried",
        "served",
        "service",
        "started",
        "tried",
        "why",
        "within",
    )

    def __init__(self, request: Any, service: str, options: CallOptions, now: float) -> None:
        self.id: int = 0
        self.request: Any = request
        self.service: str = service
        self.options: CallOptions = options
        self.started: float = now
        self.now: float = now
        self.finished: float = now
        self.attempt: int = 1
        self.attempts: list[Attempt] = []
        self.tried: tuple[Node, ...] = ()
        self.repeatable: bool = False
        self.retried: bool = False
        self.within: Callable[[Node], bool] | None = None
        self.rather: Callable[[Node], bool] | None = None
        self.prefers: Node | None = None
        self.served: Node | None = None
        self.free: int = 0
        self.remarked: NodeFavoured | None = None
        self.why: Why | None = None

    @property
    def hash_key(self) -> str | None:
        return self.options.hash_key

    def usable(self, node: Node) -> bool:
        """Whether the call may go to that node. (`require` and `prefer` choose the nodes a picker is made for.)"""
        if node.excluded or node.removed or node in self.tried:
            return False
        return self.within is None or self.within(node)

    def remark(self, node: Node, share: float, reason: str) -> None:
        """Say that a node gets far more than its share of the calls, and why."""
        self.remarked = NodeFavoured(self.service, node.instance, share, reason)

    def report(self) -> CallReport:
        return CallReport(
            self.service, tuple(attempt.report() for attempt in self.attempts), self.finished - self.started
        )

    def attach_to(self, error: BaseException, named: bool) -> None:
        """Give an error the story of this call. A call that never got a node has none worth a note.

        named: its message says which service it was, and which instance was tried last
        """
        report = self.report()
        if named:
            say_where(error, self.service, str(report.attempts[-1].instance) if report.attempts else None)
        try:
            setattr(error, ATTRIBUTE, report)
        except AttributeError:
            return
        if report.attempts:
            annotate(error, f"smartclient: {report}")
