"""Config: what a configuration file says, checked whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..discovery import discovery_of
from ..faults import Fault, faults_from
from ..policy import Policy
from ..support.hosts import matching_name, pattern_name
from ..support.untrusted import line, shown
from .environment import overlaid
from .reading import content_of, reader_of, said_in
from .said import NOTHING, BadFile, Problem, Said, hint, merged

VERSION = 1
KEYS = ("version", "discovery", "defaults", "services", "faults")


class ConfigError(ValueError):
    """A configuration is wrong. Its message has a line for each problem.

    path:      of the file
    problems:  each as "smartclient.yaml:9: services.payments.deadline: expected …"
    """

    def __init__(self, path: str, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.path: str = path
        self.problems: tuple[str, ...] = problems


@dataclass(frozen=True)
class Config:
    """What a file and the environment say.

    path:       of the file
    discovery:  a URL; None: it names none
    default:    the policy of services that it does not name
    policies:   of those that it does, by name or glob
    faults:     what is injected, by service or glob
    environment: what was read on top of the file; None: the process's
    """

    path: Path
    discovery: str | None
    default: Policy
    policies: Mapping[str, Policy]
    faults: Mapping[str, tuple[Fault, ...]] = field(default_factory=dict)
    environment: Mapping[str, str] | None = field(default=None, repr=False, compare=False)
    _said: Mapping[str | None, Said] = field(default_factory=dict, repr=False, compare=False)

    def same(self, name: str | None, said: Said) -> Policy | None:
        """Its policy of that name, if the same was said of it. (tenacity's strategies compare by identity.)"""
        was = self._said.get(name)
        if was is None or was.plain != said.plain:
            return None
        return self.default if name is None else self.policies[name]

    def effective(self, service: str) -> tuple[str | None, Said]:
        """The name or glob that a service has its policy of, and all that is said of it."""
        name = matching_name(pattern_name(service), self.policies)
        return name, self._said[name]


def load_config(path: str | os.PathLike[str], *, environment: Mapping[str, str] | None = None) -> Config:
    """Read a configuration file (.yaml, .toml, .json), with what the environment says on top of it
    (SMARTCLIENT_POLICY__…; `environment`: in place of `os.environ`).

    Raises ConfigError, which says all that is wrong, and ImportError without the extra `smartclient[config]`.
    """
    file = Path(path)
    try:
        reader_of(file)  # a wrong name is said before the file is looked at
        content = content_of(file)
    except BadFile as error:
        raise ConfigError(str(file), (Problem(error.line, "", str(error)).of(line(str(file))),)) from None
    return config_in(content, file, environment)


def config_in(
    content: bytes, file: Path, environment: Mapping[str, str] | None = None, before: Config | None = None
) -> Config:
    """The same, of a file that has been read. before: policies of which nothing else is said now stay the very same"""
    name = line(str(file))
    try:
        said = said_in(content, reader_of(file))
    except BadFile as error:
        raise ConfigError(str(file), (Problem(error.line, "", str(error)).of(name),)) from None
    config, problems = _read(said, file, environment, before)
    if config is None:
        lines = dict.fromkeys(problem.of(name) for problem in sorted(problems))
        raise ConfigError(str(file), tuple(lines))
    return config


def _read(
    said: Said, file: Path, environment: Mapping[str, str] | None, before: Config | None
) -> tuple[Config | None, list[Problem]]:
    from .structure import policy_from  # needs cattrs, of the extra `config`

    top: dict[str, Said] = said.value
    problems = [
        one.problem(f"unknown{hint(key, KEYS)}") for key, one in top.items() if key not in KEYS and key != "$schema"
    ]
    problems += _version(said)
    discovery = _discovery(top.get("discovery"), before, problems)
    defaults, services = top.get("defaults", NOTHING), _services(top.get("services"), problems)
    if defaults.value is None:
        defaults = NOTHING
    if not isinstance(defaults.value, dict):
        problems.append(defaults.problem(f"expected settings, got {shown(defaults.plain)}"))
        defaults = NOTHING
    defaults, services, wrong = overlaid(defaults, services, os.environ if environment is None else environment)
    problems += wrong
    all_said: dict[str | None, Said] = {None: defaults}
    all_said |= {name: merged(defaults, own) for name, own in services.items()}
    made: dict[str | None, Policy | None] = {}
    for name, one in all_said.items():
        made[name] = None if before is None else before.same(name, one)
        if made[name] is None:
            made[name], wrong = policy_from(one)
            problems += [_for_service(problem, name) for problem in wrong if problem not in problems]
    faults, wrong = faults_of(top.get("faults"))
    problems += wrong
    if problems:
        return None, problems
    policies = {name: policy for name, policy in made.items() if name is not None and policy is not None}
    default = made[None]
    assert default is not None
    return Config(file, discovery, default, policies, faults, environment, all_said), []


def _for_service(problem: Problem, name: str | None) -> Problem:
    """What stands in the defaults may be wrong only with what a service says."""
    elsewhere = name is not None and problem.path.startswith("defaults.")
    return problem._replace(text=f"{problem.text} (for {name})") if elsewhere else problem


def _version(said: Said) -> list[Problem]:
    version = said.value.get("version")
    if version is None:
        return [said.problem(f"version is missing: write `version: {VERSION}`")]
    if version.value != VERSION or isinstance(version.value, bool):
        return [version.problem(f"expected {VERSION}, got {shown(version.plain)}")]
    return []


def _discovery(said: Said | None, before: Config | None, problems: list[Problem]) -> str | None:
    if said is None or said.value is None:
        return None
    if before is not None and said.value == before.discovery:
        return before.discovery
    if not isinstance(said.value, str):
        problems.append(said.problem("expected a URL like consul://127.0.0.1:8500"))
        return None
    try:
        discovery_of(said.value)
    except Exception as error:  # a source that cannot be made, for whatever reason
        problems.append(said.problem(line(str(error).removeprefix("discovery: ").partition("\n")[0], 600)))
    return said.value


def _services(said: Said | None, problems: list[Problem]) -> dict[str, Said]:
    if said is None or said.value is None:
        return {}
    if not isinstance(said.value, dict):
        problems.append(said.problem("expected names of services with their settings"))
        return {}
    services: dict[str, Said] = {}
    for name, own in said.value.items():
        known = pattern_name(name)
        if known in services:
            problems.append(own.problem("stands twice: names of services have no upper case"))
        elif own.value is None:
            services[known] = Said({}, own.path, own.line)
        elif not isinstance(own.value, dict):
            problems.append(own.problem(f"expected settings, got {shown(own.plain)}"))
        else:
            services[known] = own
    return services


def faults_of(said: Said | None) -> tuple[dict[str, tuple[Fault, ...]], list[Problem]]:
    """What a file has injected: names or globs, each with one fault or several ("503@10%")."""
    if said is None or said.value is None:
        return {}, []
    if not isinstance(said.value, dict):
        return {}, [said.problem("expected names of services with faults, like {orders: 503@10%}")]
    faults: dict[str, tuple[Fault, ...]] = {}
    problems = []
    for name, own in said.value.items():
        if own.value is None:
            continue
        written: list[Any] = own.value if isinstance(own.value, list) else [own]
        if pattern_name(name) in faults:
            problems.append(own.problem("stands twice: names of services have no upper case"))
            continue
        try:
            faults[pattern_name(name)] = tuple(fault for one in written for fault in faults_from(str(one.plain)))
        except ValueError as error:
            problems.append(own.problem(str(error)))
    return faults, problems
