"""Steering: where the policies of a client come from, and how they change while it runs.

A call's own options count most; then code (`policies=`, by name or glob), then the environment's and the file's for a
service, then code's `policy=`, then the file's defaults.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..faults import VARIABLE, Faults, faults_of_environment
from ..policy import Policies, Policy
from ..support.loggers import CONFIG

if TYPE_CHECKING:
    from ..config import Config


class Steering:
    """The settings of one client.

    policies:  in force
    faults:    what is injected
    config:    the file that they come from, as it was last good; None: there is none
    problems:  what is wrong with it now
    """

    def __init__(
        self, policy: Policy | None, policies: Mapping[str, Policy] | None, config: Config | None, trust_env: bool
    ) -> None:
        self.lock: threading.Lock = threading.Lock()
        self.config: Config | None = config
        self.problems: tuple[str, ...] = ()
        self._policy = policy
        self._own = policies
        self._injected = faults_of_environment(os.environ.get(VARIABLE, "")) if trust_env else {}
        self.policies: Policies = self._policies()
        self.faults: Faults = self._faults()
        self._warn_of_faults()

    def change(self, policy: Policy | None, policies: Mapping[str, Policy] | None) -> None:
        """Code says something else. None: what it said before (the lock held)."""
        before = self._policy, self._own
        self._policy = policy or self._policy
        self._own = self._own if policies is None else dict(policies)
        try:
            self.policies = self._policies()
        except BaseException:
            self._policy, self._own = before
            raise

    def load(self, config: Config) -> None:
        """The file says something else (the lock held)."""
        before = self.faults
        self.config, self.problems = config, ()
        self.policies, self.faults = self._policies(), self._faults()
        if self.faults != before:
            self._warn_of_faults()

    def status(self) -> dict[str, Any] | None:
        """For `client.status()`."""
        if self.config is None:
            return None
        return {"path": str(self.config.path), "problems": list(self.problems)}

    def _policies(self) -> Policies:
        file = None if self.config is None else Policies(self.config.default, self.config.policies)
        return Policies(self._policy, self._own, file)

    def _faults(self) -> Faults:
        return {**({} if self.config is None else self.config.faults), **self._injected}

    def _warn_of_faults(self) -> None:
        """Loudly: nobody wants them in production."""
        for service, faults in self.faults.items():
            said = ", ".join(f"{fault} for {fault.share:.3%} of the attempts" for fault in faults)
            where = VARIABLE if service in self._injected else str(self.config.path if self.config else "")
            CONFIG.warning("FAULTS ARE INJECTED on purpose: %s: %s (%s)", service, said, where)
