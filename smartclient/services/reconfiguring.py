"""Reconfiguring: a service takes another policy while calls go on. Only what depends on a changed field is made anew;
the nodes, what is known of them, and their connections stay. Calls in progress keep the policy they began with.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import fields, is_dataclass
from typing import Any

from ..faults import Fault
from ..policy import Policy
from .allowances import account_of, admission_of
from .load_reports import reports_of
from .service import Service

ADMISSION = {"limits", "throttle", "circuit"}
ADDRESSES = {"host_header", "tls_server_name"}
MEMBERS = {"balancer", "outlier", "slow_start", "zone", "client_zones", "min_zone_size", "panic_threshold", "subset",
           "require", "prefer"}  # fmt: skip


def changed_fields(before: Policy, after: Policy) -> frozenset[str]:
    """The names of the fields that differ."""
    if before is after:
        return frozenset()
    names = (field.name for field in fields(after))
    return frozenset(name for name in names if not same(getattr(before, name), getattr(after, name)))


def same(before: Any, after: Any) -> bool:
    """Whether two settings say the same. tenacity's strategies compare by identity; here by what they are made of."""
    if before == after:
        return True
    if type(before) is not type(after):
        return False
    if is_dataclass(before) and not isinstance(before, type):
        return all(same(getattr(before, one.name), getattr(after, one.name)) for one in fields(before))
    return type(before).__module__.startswith("tenacity.") and vars(before) == vars(after)


def reconfigure(service: Service, policy: Policy, faults: tuple[Fault, ...]) -> frozenset[str]:
    """Have it follow a policy; which fields have changed. In the thread of whoever changes it: no call waits."""
    service.faults = faults
    before = service.policy
    changed = changed_fields(before, policy)
    if not changed:
        return changed
    service.policy = policy
    if "retry" in changed:
        _budget(service, before, policy)
    if changed & ADMISSION:
        _admission(service, policy)
    if changed & MEMBERS:
        _members(service, policy, changed)
    if changed & ADDRESSES:
        for node in service.nodes:
            if node.connections is not None:
                node.connections.forget_addresses()
    if before.health_check is not None and policy.health_check is None:
        for node in service.nodes:  # nobody would ever find them well again
            service.checked(node, True)
    service.announce.reconfigured(changed)
    return changed


def _budget(service: Service, before: Policy, policy: Policy) -> None:
    was, budget = (None if one.retry is None else one.retry.budget for one in (before, policy))
    if budget != was:
        service.budget = account_of(policy)


def _admission(service: Service, policy: Policy) -> None:
    made = admission_of(policy, service.rng)
    if service.admission is not None:
        service.admission.follow(
            policy.limits, policy.throttle, policy.circuit
        )  # also if nothing is left: who waits, goes
    if service.admission is None or made is None:
        service.admission = made
    service.limit_nodes()
    is_open = service.admission is not None and service.admission.circuit_open
    service.announce.circuit(is_open, "another policy is in force")


def _members(service: Service, policy: Policy, changed: Set[str]) -> None:
    members = service.members
    events, told = members.follow(policy, changed)
    if "balancer" in changed:
        service.load_reports = reports_of(members, service.clock)
    service.apply(events, service.clock())
    service.tell(told)
