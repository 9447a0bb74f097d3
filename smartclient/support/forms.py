"""Forms: what a setting may be when it is written in a file, beside its check. Policy files are read by them, and their
schema is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Form:
    """One kind of value.

    schema:    as JSON Schema, of what is no mapping of settings
    seconds:   a time, which may be written "25ms"
    settings:  classes of settings, written as mappings of their fields
    strategy:  one of tenacity's, of this group: "wait", "stop", "retry"
    """

    schema: Mapping[str, Any] = field(default_factory=dict)
    seconds: bool = False
    settings: tuple[type[Any], ...] = ()
    strategy: str | None = None

    def __or__(self, other: Form) -> Form:
        """Either."""
        schemas = [*self.alternatives(), *other.alternatives()]
        return Form(
            schema={"anyOf": schemas} if len(schemas) > 1 else schemas[0] if schemas else {},
            seconds=self.seconds or other.seconds,
            settings=self.settings + other.settings,
            strategy=self.strategy or other.strategy,
        )

    def alternatives(self) -> list[Any]:
        return list(self.schema["anyOf"]) if "anyOf" in self.schema else [self.schema] if self.schema else []


class Checked:
    """A check of settings, with the form of what passes it."""

    __slots__ = ("_check", "form")

    def __init__(self, check: Callable[[str, Any], Any], form: Form) -> None:
        self._check = check
        self.form: Form = form

    def __call__(self, name: str, value: Any) -> Any:
        return self._check(name, value)


NULL = Form({"type": "null"})
ANYTHING = Form()


def form_of(check: Any) -> Form:
    """The form of what passes a check; that of a plain function is not known."""
    return check.form if isinstance(check, Checked) else ANYTHING


def plain(type_: str, **more: Any) -> Form:
    return Form({"type": type_, **more})


def is_settings(cls: Any) -> bool:
    """Whether it is a class of settings."""
    return isinstance(cls, type) and is_dataclass(cls)
