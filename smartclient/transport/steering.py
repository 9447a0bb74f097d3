"""Steering: where the policies of a client come from, and how they change while it runs.

A call's own options count most; then code (`policies=`, by name or glob), then the environment's and the file's for a
service, then code's `policy=`, then the file's defaults.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..faults import NO_FAULTS, VARIABLE, Fault, faults_for, faults_of_environment
from ..policy import Policies, Policy
from ..support.loggers import CONFIG

if TYPE_CHECKING:
    from ..config import Config


class Steering:
    """The settings of one client.

    policies:  in force
    config:    the file that they come from, as it was last good; None: there is none
    problems:  what is wrong with it now
    """

    def __init__(
        self,
        policy: Policy | None,
        policies: Mapping[str, Policy] | None,
        config: Config | None,
        trust_env: bool,
        discovery_given: bool,
    ) -> None:
        """discovery_given: by code: what the file says of it does not count"""
        self.lock: threading.Lock = threading.Lock()
        self.config: Config | None = config
        self.problems: tuple[str, ...] = ()
        self._policy = policy
        self._own = dict(policies) if isinstance(policies, Mapping) else policies
        self._injected = faults_of_environment(os.environ.get(VARIABLE, "")) if trust_env else {}
        self.policies: Policies = self._policies()
        self._discovery_given = discovery_given
        self._discovery = None if config is None else config.discovery  # as the file named it last
        self._warn_of_faults()

    def after_fork(self) -> None:
        """In a forked child: whoever held the lock is not there."""
        self.lock = threading.Lock()

    def change(self, policy: Policy | None, policies: Mapping[str, Policy] | None) -> None:
        """Code says something else, which has been checked. None: what it said before (the lock held)."""
        self._policy = policy or self._policy
        self._own = self._own if policies is None else dict(policies)
        self.policies = self._policies()

    def other_discovery(self, config: Config) -> str | None:
        """The URL of another source, if the file names one now and may."""
        return None if self._discovery_given or config.discovery == self._discovery else config.discovery

    def load(self, config: Config) -> None:
        """The file says something else (the lock held)."""
        before = self.config
        self.config, self.problems = config, ()
        self.policies = self._policies()
        self._discovery = config.discovery or self._discovery
        if before is None or before.faults != config.faults:
            self._warn_of_faults()

    def faults_of(self, service: str) -> tuple[Fault, ...]:
        """What is injected: as the environment says, else as the file does."""
        file = NO_FAULTS if self.config is None else self.config.faults
        return faults_for(service, self._injected) or faults_for(service, file)

    def status(self) -> dict[str, Any] | None:
        """For `client.status()`."""
        if self.config is None:
            return None
        return {"path": str(self.config.path), "problems": list(self.problems)}

    def _policies(self) -> Policies:
        file = None if self.config is None else Policies(self.config.default, self.config.policies)
        return Policies(self._policy, self._own, file)

    def _warn_of_faults(self) -> None:
        """Loudly: nobody wants them in production."""
        file = NO_FAULTS if self.config is None else self.config.faults
        for service, faults in {**file, **self._injected}.items():
            said = ", ".join(f"{fault} for {fault.share:.3%} of the attempts" for fault in faults)
            where = VARIABLE if service in self._injected else str(self.config.path if self.config else "")
            CONFIG.warning("FAULTS ARE INJECTED on purpose: %s: %s (%s)", service, said, where)
