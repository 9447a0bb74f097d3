"""Allowances: what a policy allows the calls of a service: a budget for retries, and limits."""

from __future__ import annotations

from random import Random

from ..limits import Admission
from ..policy import Policy
from ..retry.budget import BudgetAccount


def account_of(policy: Policy) -> BudgetAccount | None:
    """For its retries; None: any number."""
    budget = None if policy.retry is None else policy.retry.budget
    return None if budget is None else BudgetAccount(budget)


def admission_of(policy: Policy, rng: Random) -> Admission | None:
    """None: every call may begin."""
    settings = policy.limits, policy.throttle, policy.circuit
    return None if settings == (None, None, None) else Admission(*settings, rng)
