"""TOML. Its library says no lines: they are looked for, by the headers of tables and the names before `=`."""

from __future__ import annotations

import re
from typing import Any

from ..support.toml_text import from_toml
from .said import BadFile, Path, Said

_HEADER = re.compile(r"\s*\[\[?([^\]]*)\]")
_KEY = re.compile(r"""\s*((?:"[^"]*"|'[^']*'|[\w.-]|\s(?=[\s.="']))+?)\s*=""")
_PART = re.compile(r""""([^"]*)"|'([^']*)'|([\w-]+)""")
_LINE = re.compile(r"\(at line (\d+), column \d+\)")


def read_toml(text: str) -> Said:
    """Raises BadFile."""
    try:
        read = from_toml(text)
    except ValueError as error:
        found = _LINE.search(str(error))
        said = _LINE.sub("", str(error)).strip()
        raise BadFile(said if found is None else f"no TOML: {said}", int(found[1]) if found else 0) from None
    return _said(read, (), 1, _lines(text))


def _lines(text: str) -> dict[Path, int]:
    """Where each key stands first."""
    found: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        header, key = _HEADER.match(line), _KEY.match(line)
        if header is not None:
            table = _parts(header[1])
            path = table
        elif key is not None:
            path = (*table, *_parts(key[1]))
        else:
            continue
        for end in range(1, len(path) + 1):
            found.setdefault(path[:end], number)
    return found


def _parts(written: str) -> Path:
    return tuple(next(filter(None, part.groups()), "") for part in _PART.finditer(written))


def _said(value: Any, path: Path, line: int, lines: dict[Path, int]) -> Said:
    line = lines.get(path, line)
    if isinstance(value, dict):
        return Said({key: _said(one, (*path, key), line, lines) for key, one in value.items()}, path, line)
    if isinstance(value, list):
        items = [_said(one, (*path, str(number)), line, lines) for number, one in enumerate(value)]
        return Said(items, path, line)
    if not isinstance(value, (bool, int, float, str)):
        value = str(value)  # a date
    return Said(value, path, line)
