"""From what a file says to settings: cattrs makes the classes; each field is read by the form, and judged by the check,
that is declared beside it. All problems are found, not only the first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from ..balancers import Balancer, balancer_kind, balancer_made
from ..policy import Policy
from ..support.durations import DURATION, EXPECTED, seconds_in
from ..support.forms import Form, form_of, is_settings
from ..support.untrusted import shown
from .said import Path, Problem, Said, hint
from .strategies import strategy_from

try:
    from cattrs import Converter
    from cattrs.errors import AttributeValidationNote, BaseValidationError, ForbiddenExtraKeysError
    from cattrs.gen import make_dict_structure_fn, override
except ImportError:
    raise ImportError("configuration files need cattrs: pip install 'smartclient[config]'") from None

SWITCHES = ("on", "off", "yes", "no")  # booleans of old YAML
_NAMED = re.compile(r"[A-Z]\w*\.([a-z_0-9]+): (.*)", re.DOTALL)
_WORDS = {" None": " null", " True": " true", " False": " false"}


class Wrong(ValueError):
    """A value that a setting cannot have. keys: below it, where that is"""

    def __init__(self, text: str, keys: Path = ()) -> None:
        super().__init__(text)
        self.keys: Path = keys


class Several(ValueError):
    def __init__(self, problems: list[Wrong]) -> None:
        super().__init__()
        self.problems: list[Wrong] = problems


def policy_from(said: Said) -> tuple[Policy | None, list[Problem]]:
    """The policy, and what is wrong with it; each problem is said where its value stands."""
    try:
        return _CONVERTER.structure(said.plain, Policy), []
    except Exception as error:
        return None, [said.problem_at(path, text) for path, text in _problems(error, ())]


# ---- reading ----


def _class_hook(cls: type[Any]) -> Callable[[Any, Any], Any]:
    overrides: Any = {
        field.name: override(struct_hook=_field_hook(field.metadata.get("check")))
        for field in fields(cls)
        if field.init
    }
    made: Callable[[Any, Any], Any] = make_dict_structure_fn(
        cls, _CONVERTER, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True, **overrides
    )
    return made


def _field_hook(check: Any) -> Callable[[Any, Any], Any]:
    form = form_of(check)

    def read(value: Any, _: Any) -> Any:
        read = _read(form, value)
        if check is None:
            return read
        try:
            return check("", read)
        except (ValueError, TypeError) as error:
            raise Wrong(_in_yaml(str(error).removeprefix(": "))) from None

    return read


def _read(form: Form, value: Any) -> Any:
    """A value by its form, still to be checked."""
    if form.strategy is not None and value is not None:
        made, wrong = strategy_from(form.strategy, value)
        if wrong:
            raise Several([Wrong(text, keys) for keys, text in wrong])
        return made
    if form.settings and value is not None:
        return _settings(form, value)
    if isinstance(value, str) and value.lower() in SWITCHES and {"type": "boolean"} in form.alternatives():
        raise Wrong(f"expected true or false, got {shown(value)}")
    if form.seconds and isinstance(value, str):
        number = seconds_in(value)
        if number is not None:
            return number
        if all(one.get("pattern") == DURATION for one in form.alternatives() if one.get("type") == "string"):
            raise Wrong(f"expected {EXPECTED}, got {shown(value)}")
    return value


def _settings(form: Form, value: Any) -> Any:
    """Settings of a class, written as a mapping, or what the form allows in their place."""
    cls = form.settings[0]
    if cls is Balancer and isinstance(value, (str, dict)):
        return _balancer(value)
    if isinstance(value, dict):
        return _CONVERTER.structure(value, cls)
    if all(one == {"type": "null"} for one in form.alternatives()):
        null = ", or null" if form.alternatives() else ""
        what = "the name of a balancer, or its settings" if cls is Balancer else f"the settings of {cls.__name__}"
        raise Wrong(f"expected {what}, like {{…}}{null}, got {_in_yaml(', got ' + shown(value))[6:]}")
    return value


def _balancer(said: Any) -> Balancer:
    if isinstance(said, str):
        said = {"name": said}
    settings = dict(said)
    name = settings.pop("name", "adaptive")
    if not isinstance(name, str):
        raise Wrong(f"expected the name of a balancer, got {shown(name)}", ("name",))
    try:
        found = balancer_kind(name)
    except ValueError as error:
        raise Wrong(str(error).removeprefix("balancer: "), ("name",)) from None
    if is_settings(found):
        made: Balancer = _CONVERTER.structure(settings, found)
        return made
    # A package's: a function that makes one, or a balancer.
    return balancer_made(name, found(**settings) if settings else found)


def _in_yaml(text: str) -> str:
    """A check's message, in the words of a file."""
    expected, got, rest = text.partition(", got ")
    for ours, theirs in _WORDS.items():
        expected = expected.replace(ours, theirs)
    if rest in ("None", "True", "False"):
        rest = {"None": "null", "True": "true", "False": "false"}[rest]
    return expected + got + rest


# ---- problems ----


def _problems(error: BaseException, path: Path) -> Iterator[tuple[Path, str]]:
    """What went wrong, each where it is."""
    if isinstance(error, BaseValidationError):
        missing: set[str] = set()
        extra: list[tuple[str, Any]] = []
        for one in error.exceptions:
            name = _attribute(one)
            below = (*path, name) if name is not None else path
            if isinstance(one, ForbiddenExtraKeysError):
                extra += [(key, one.cl) for key in sorted(one.extra_fields)]
            elif isinstance(one, KeyError) and name is not None:
                missing.add(name)
            else:
                yield from _problems(one, below)
        for key, cls in extra:
            known = [field.name for field in fields(cls) if field.init]
            if issubclass(cls, Balancer):
                known.append("name")
            meant = hint(key, known)
            yield (*path, key), f"unknown{meant}" if meant else f"unknown; known are {', '.join(sorted(known))}"
            # One message for a name that is misspelt, not two.
            missing -= {name for name in missing if meant == f"; did you mean {name}?"}
        for name in sorted(missing):
            yield path, f"{name} is missing"
    elif isinstance(error, Several):
        for wrong in error.problems:
            yield (*path, *wrong.keys), str(wrong)
    elif isinstance(error, Wrong):
        yield (*path, *error.keys), str(error)
    else:  # a check of several fields, which names one of them
        found = _NAMED.match(str(error))
        yield (path, _in_yaml(str(error))) if found is None else ((*path, found[1]), _in_yaml(found[2]))


def _attribute(error: BaseException) -> str | None:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return note.name
    return None


_CONVERTER: Any = Converter(detailed_validation=True, forbid_extra_keys=True)
_CONVERTER.register_structure_hook_factory(is_settings, _class_hook)
