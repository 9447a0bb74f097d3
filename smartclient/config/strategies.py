"""tenacity's strategies, as a file writes them: {exponential: {multiplier: 25ms, max: 1s}}, or {fixed: 100ms}."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import tenacity

from ..support.checks import nearest
from ..support.durations import EXPECTED, seconds_in
from ..support.untrusted import shown

WAITS: dict[str, Callable[..., Any]] = {
    "exponential": tenacity.wait_exponential,
    "fixed": tenacity.wait_fixed,
    "incrementing": tenacity.wait_incrementing,
    "random": tenacity.wait_random,
    "random_exponential": tenacity.wait_random_exponential,
}
STOPS: dict[str, Callable[..., Any]] = {
    "after_attempt": tenacity.stop_after_attempt,
    "after_delay": tenacity.stop_after_delay,
    "before_delay": tenacity.stop_before_delay,
}
GROUPS: dict[str, dict[str, Callable[..., Any]]] = {"wait": WAITS, "stop": STOPS, "retry": {}}
NO_TIMES = ("exp_base", "max_attempt_number")


def parameters_of(kind: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(kind).parameters if name != "self"]


def strategy_from(group: str, said: Any) -> tuple[Any, list[tuple[tuple[str, ...], str]]]:
    """A strategy; and what is wrong with it, each with the keys below it where that is."""
    kinds = GROUPS[group]
    if not kinds:
        return None, [((), "can only be set in code: Retry(retry=…)")]
    known = ", ".join(kinds)
    if not isinstance(said, dict) or len(said) != 1:
        return None, [
            ((), f"expected one of {known} with its settings, like {{{next(iter(kinds))}: …}}, got {shown(said)}")
        ]
    ((name, settings),) = said.items()
    kind = kinds.get(name)
    if kind is None:
        return None, [((name,), f"unknown{nearest(name, kinds)}; expected one of {known}")]
    parameters = parameters_of(kind)
    if settings is None:
        settings = {}
    if not isinstance(settings, dict):
        settings = {parameters[0]: settings}
        below: Callable[[str], tuple[str, ...]] = lambda parameter: (name,)  # noqa: E731
    else:
        below = lambda parameter: (name, parameter)  # noqa: E731
    problems, keywords = [], {}
    for parameter, value in settings.items():
        if parameter not in parameters:
            problems.append((below(parameter), f"unknown{nearest(parameter, parameters)}"))
            continue
        number = seconds_in(value) if isinstance(value, str) and parameter not in NO_TIMES else value
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= 1e9:
            expected = "a number from 0 up" if parameter in NO_TIMES else EXPECTED
            problems.append((below(parameter), f"expected {expected}, got {shown(value)}"))
        keywords[parameter] = number
    if problems:
        return None, problems
    try:
        return kind(**keywords), []
    except TypeError as error:
        return None, [((name,), str(error))]


def schema_of(group: str) -> dict[str, Any]:
    time = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}]}
    kinds = GROUPS[group]
    if not kinds:
        return {"not": {}, "description": "can only be set in code"}
    one_of = {}
    for name, kind in kinds.items():
        fields = {one: {"type": "number", "minimum": 0} if one in NO_TIMES else time for one in parameters_of(kind)}
        own = {"type": "object", "properties": fields, "additionalProperties": False}
        one_of[name] = {"anyOf": [own, next(iter(fields.values())), {"type": "null"}]}
    return {"type": "object", "properties": one_of, "additionalProperties": False, "minProperties": 1,
            "maxProperties": 1}  # fmt: skip
