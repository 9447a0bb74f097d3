"""`smartclient check FILE`: all that is wrong with a configuration file, or the policy that a service has of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from ..balancers import Balancer
from ..config import Config, ConfigError, load_config
from ..faults import VARIABLE, faults_for, faults_of_environment
from ..support.forms import is_settings
from ..support.hosts import pattern_name
from ..support.untrusted import shown


def run_check(file: str, service: str | None) -> int:
    """Its exit status."""
    try:
        config = load_config(file)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if service is None:
        count = len(config.policies)
        print(f"{file}: fine; policies of {count} service{'' if count == 1 else 's'}, and the default")
        return 0
    for row in effective_policy(config, service):
        print(row)
    return 0


def effective_policy(config: Config, service: str) -> Iterator[str]:
    """The policy of a service, a line for each value: what it is, and who says so."""
    name, said = config.effective(service)
    yield f"{service}: " + ("the defaults: the file does not name it" if name is None else f"services.{name}")
    policy = config.default if name is None else config.policies[name]
    sources = {path: one.variable or f"{config.path}:{one.line} {'.'.join(one.path)}" for path, one in said.leaves()}
    for path, value in _values(policy):
        source = next((sources[path[:end]] for end in range(len(path), 0, -1) if path[:end] in sources), None)
        if source is None:  # of a strategy the file says parts
            source = next((one for below, one in sources.items() if below[: len(path)] == path), "default")
        if value is not None or source != "default":
            yield f"  {'.'.join(path)} = {_written(value)}  # {source}"
    named = pattern_name(service)
    environment = faults_of_environment(os.environ.get(VARIABLE, ""))
    for fault in faults_for(named, environment) or faults_for(named, config.faults):
        yield f"  fault: {fault} for {fault.share:.3%} of the attempts"


def _values(settings: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(settings, Balancer):
        yield (*path, "name"), settings.name
    for field in fields(settings):
        value = getattr(settings, field.name)
        below = (*path, field.name)
        if is_settings(type(value)):
            yield from _values(value, below)
        else:
            yield below, value


def _written(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, frozenset):
        return f"[{', '.join(map(str, sorted(value)))}]"
    if callable(value):
        kept = {name: one for name, one in vars(value).items() if name != "exp_base" or one != 2}
        return f"{type(value).__name__}({', '.join(f'{name}={one:g}' for name, one in kept.items())})"
    return value if isinstance(value, str) else shown(value)
