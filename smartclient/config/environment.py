"""What the environment says on top of a file: SMARTCLIENT_POLICY__PAYMENTS__DEADLINE=2s.

After `SMARTCLIENT_POLICY__` come a name of the file's services, or DEFAULTS, and the keys of a setting, with `__`
between them, all in capitals. In a service's name everything but letters and digits is `_`, and `*` is `ANY`:
`payments-eu` is PAYMENTS_EU, `*.eu` is ANY_EU. The value is read as in YAML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from ..support.untrusted import shown
from .said import Problem, Said, hint
from .yaml_reader import plain_value

PREFIX = "SMARTCLIENT_POLICY__"
DEFAULTS = "DEFAULTS"


def written_name(service: str) -> str:
    """How the environment writes a service's name, or a glob."""
    return re.sub(r"[^A-Z0-9]", "_", service.replace("*", "ANY").upper())


def overlaid(
    defaults: Said, services: Mapping[str, Said], environment: Mapping[str, str]
) -> tuple[Said, dict[str, Said], list[Problem]]:
    """Both, with what the environment says."""
    changed, problems = dict(services), []
    names: dict[str, list[str | None]] = {DEFAULTS: [None]}
    for one in services:
        names.setdefault(written_name(one), []).append(one)
    for variable in sorted(environment):
        if not variable.startswith(PREFIX):
            continue
        rest = variable.removeprefix(PREFIX)
        # Names may have `__` themselves (xn--…): the longest that fits.
        known = [one for one in names if rest == one or rest.startswith(f"{one}__")]
        name = max(known, key=len, default=rest.partition("__")[0])
        keys = rest[len(name) + 2 :].split("__")
        if not known:
            problems.append(Problem(0, variable, f"the file has no service {shown(name)[1:-1]}{hint(name, names)}"))
            continue
        if not keys or not all(keys):
            problems.append(Problem(0, variable, "expected a setting after the name, like …__DEADLINE"))
            continue
        service: str | None = names[name][0]
        if len(names[name]) > 1:
            both = " and ".join(str(one or "the defaults") for one in names[name])
            problems.append(Problem(0, variable, f"may be {both}: say it in the file"))
            continue
        base = defaults if service is None else changed[service]
        said = Said(_value(environment[variable]), (variable,), 0)
        overlay = _put(base, [key.lower() for key in keys], said)
        if service is None:
            defaults = overlay
        else:
            changed[service] = overlay
    return defaults, changed, problems


def _put(base: Said, keys: list[str], said: Said) -> Said:
    """A value at a path, made of mappings where there is none."""
    if not keys:
        return said
    inner = dict(base.value) if isinstance(base.value, dict) else {}
    inner[keys[0]] = _put(inner.get(keys[0], Said({}, said.path, 0)), keys[1:], said)
    # A balancer or a wait by its name alone becomes a mapping with that name.
    if isinstance(base.value, str) and "name" not in inner:
        inner["name"] = base
    return Said(inner, base.path, base.line)


def _value(written: str) -> object:
    if written[:1] in ("{", "["):
        try:
            return _said(json.loads(written))
        except (ValueError, RecursionError):
            return written
    return plain_value(written.strip())


def _said(value: object) -> object:
    """Lists and mappings as `Said` has them."""
    if isinstance(value, dict):
        return {key: Said(_said(one), (), 0) for key, one in value.items()}
    if isinstance(value, list):
        return [Said(_said(one), (), 0) for one in value]
    return value
