"""YAML, as far as a configuration needs it: mappings, lists, and plain values that mean what they look like.

Read from the parser's events, so every value has its line, and nothing is expanded or constructed: aliases, anchors,
merge keys and tags are refused, and so are keys that stand twice. `on`, `off`, `yes`, `no` and dates are strings, as in
YAML 1.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..support.untrusted import shown, whole_number
from .said import DEEPEST, BadFile, Path, Said

_FLOAT = re.compile(r"[-+]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][-+]?\d{1,3})?")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WORDS |= {word: float(word.replace(".", "")) for word in (".inf", "-.inf", ".nan", ".Inf", "-.Inf", ".NaN", ".NAN")}


def read_yaml(text: str) -> Said:
    """Raises BadFile."""
    try:
        import yaml
    except ImportError:
        raise ImportError("YAML files need the package PyYAML: pip install 'smartclient[config]'") from None
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Reader(yaml, yaml.parse(text, Loader=loader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        number = 0 if mark is None else min(mark.line + 1, len(text.splitlines()))
        raise BadFile(f"no YAML: {error.problem or error.context}", number) from None
    except yaml.YAMLError as error:
        raise BadFile(f"no YAML: {str(error).splitlines()[0]}") from None


def plain_value(written: str) -> Any:
    """What an unquoted word means."""
    if written in _WORDS:
        return _WORDS[written]
    number = whole_number(written)
    if number is not None:
        return number
    return float(written) if _FLOAT.fullmatch(written) else written


class _Reader:
    def __init__(self, yaml: Any, events: Iterator[Any]) -> None:
        self._yaml = yaml
        self._events = events

    def document(self) -> Said:
        yaml = self._yaml
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return Said(None, (), 1)
        said = self._value(next(self._events), (), 0)
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise BadFile("a second document: one is expected", event.start_mark.line + 1)
        return said

    def _value(self, event: Any, path: Path, depth: int) -> Said:
        yaml, line = self._yaml, event.start_mark.line + 1
        if depth > DEEPEST:
            raise BadFile("nested too deeply", line)
        if isinstance(event, yaml.AliasEvent):
            raise BadFile(f"an alias (*{shown(event.anchor)[1:-1]}): aliases are not read", line)
        if event.tag is not None and event.tag != "!":
            raise BadFile(f"a tag ({shown(event.tag)[1:-1]}): tags are not read", line)
        if isinstance(event, yaml.ScalarEvent):
            return Said(event.value if event.style else plain_value(event.value), path, line)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(path, line, depth)
        return self._mapping(path, line, depth)

    def _list(self, path: Path, line: int, depth: int) -> Said:
        items: list[Said] = []
        while not isinstance(event := next(self._events), self._yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, str(len(items))), depth + 1))
        return Said(items, path, line)

    def _mapping(self, path: Path, line: int, depth: int) -> Said:
        items: dict[str, Said] = {}
        while not isinstance(event := next(self._events), self._yaml.MappingEndEvent):
            at = event.start_mark.line + 1
            if not isinstance(event, self._yaml.ScalarEvent):
                raise BadFile("a key that is no name", at)
            key: str = event.value
            if key == "<<" and not event.style:
                raise BadFile("a merge key (<<): merge keys are not read", at)
            if key in items:
                raise BadFile(f"the key {shown(key)} stands twice (first in line {items[key].line})", at)
            value = self._value(next(self._events), (*path, key), depth + 1)
            items[key] = Said(value.value, value.path, at)  # its line is that of its key
        return Said(items, path, line)
