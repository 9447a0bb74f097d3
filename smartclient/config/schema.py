"""The JSON Schema of configuration files, made of the settings classes and the checks beside their fields."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

from ..balancers import Balancer, balancer_kind, balancer_names
from ..policy import Policy
from ..support.forms import Form, form_of, is_settings
from .strategies import schema_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FAULT = {"type": "string", "description": "like 503@10% or delay=200ms@5%"}


def schema() -> dict[str, Any]:
    """For editors ("$schema"), and for checks without smartclient."""
    definitions: dict[str, Any] = {}
    policy = _reference(Policy, definitions)
    return {
        "$schema": DIALECT,
        "title": "smartclient configuration",
        "type": "object",
        "required": ["version"],
        "additionalProperties": False,
        "properties": {
            "$schema": {"type": "string"},
            "version": {"const": 1},
            "discovery": {"type": ["string", "null"], "description": "a URL like consul://127.0.0.1:8500"},
            "defaults": _or_null(policy),
            "services": {"type": ["object", "null"], "additionalProperties": _or_null(policy),
                         "description": "names, or globs like *.eu: the longest that matches counts"},
            "faults": {"type": ["object", "null"],
                       "additionalProperties": {"anyOf": [FAULT, {"type": "array", "items": FAULT}]}},
        },
        "$defs": definitions,
    }  # fmt: skip


def _or_null(one: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [one, {"type": "null"}]}


def _reference(cls: type[Any], definitions: dict[str, Any], **more: Any) -> dict[str, Any]:
    """To the definition of a class of settings, which is made if there is none."""
    name = cls.__name__
    if name not in definitions:
        definitions[name] = {}  # it may refer to itself
        said = descriptions(cls)
        properties = {
            field.name: _of(form_of(field.metadata.get("check")), definitions, said.get(field.name))
            for field in fields(cls)
            if field.init
        }
        definitions[name] = {
            "type": "object",
            "description": (inspect.getdoc(cls) or name).partition("\n")[0],
            "properties": {**more, **properties},
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{name}"}


def _of(form: Form, definitions: dict[str, Any], said: str | None) -> dict[str, Any]:
    choices: list[Any] = form.alternatives()
    if form.strategy is not None:
        choices.append(schema_of(form.strategy))
    for cls in form.settings:
        choices += _balancers(definitions) if cls is Balancer else [_reference(cls, definitions)]
    found: dict[str, Any] = {} if not choices else choices[0] if len(choices) == 1 else {"anyOf": choices}
    return {**found, "description": said} if said else found


def _balancers(definitions: dict[str, Any]) -> list[Any]:
    known = {name: balancer_kind(name) for name in balancer_names()}
    choices: list[Any] = [{"enum": sorted(known)}]
    for name, cls in sorted(known.items()):
        if is_settings(cls):
            choices.append(_reference(cls, definitions, name={"const": name}))
        else:
            choices.append({"type": "object", "properties": {"name": {"const": name}}, "required": ["name"]})
    return choices


def descriptions(cls: type[Any]) -> dict[str, str]:
    """What the docstring of a class says of each field."""
    found: dict[str, str] = {}
    name = ""
    for row in (inspect.getdoc(cls) or "").splitlines():
        head, colon, rest = row.partition(": ")
        names = [one.strip() for one in head.split(",")]
        if colon and not row.startswith(" ") and all(one.isidentifier() for one in names):
            name = names[0]
            for one in names:
                found[one] = rest.strip()
        elif name and row.startswith("  "):
            found[name] += " " + row.strip()
        else:
            name = ""
    return found
