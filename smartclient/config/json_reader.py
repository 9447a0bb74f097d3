"""JSON, with the line of each value, and without keys that stand twice."""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]

from ..support.untrusted import shown, whole_number
from .said import DEEPEST, BadFile, Path, Said

_SPACE = re.compile(r"[ \t\n\r]*")
_WORD = re.compile(r"[^\s,\]}]+")


def read_json(text: str) -> Said:
    """Raises BadFile."""
    try:
        json.loads(text, parse_int=whole_number)  # all of it is well-formed: the walk below need not ask
    except json.JSONDecodeError as error:
        raise BadFile(f"no JSON: {error.msg}", error.lineno) from None
    except RecursionError:
        raise BadFile("nested too deeply") from None
    return _Reader(text).value((), _SPACE.match(text, 0).end(), 0)[0]  # type: ignore[union-attr]


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._seen, self._line = 0, 1

    def _line_of(self, at: int) -> int:
        self._line += self._text.count("\n", self._seen, at)
        self._seen = at
        return self._line

    def _after_space(self, at: int) -> int:
        return _SPACE.match(self._text, at).end()  # type: ignore[union-attr]

    def value(self, path: Path, at: int, depth: int) -> tuple[Said, int]:
        """The value that begins there, and where it ends."""
        text, line = self._text, self._line_of(at)
        if depth > DEEPEST:
            raise BadFile("nested too deeply", line)
        if text[at] == '"':
            string, end = scanstring(text, at + 1)
            return Said(string, path, line), end
        if text[at] == "[":
            items: list[Said] = []
            at = self._after_space(at + 1)
            while text[at] != "]":
                item, at = self.value((*path, str(len(items))), at, depth + 1)
                items.append(item)
                at = self._after_comma(at)
            return Said(items, path, line), at + 1
        if text[at] == "{":
            return self._mapping(path, at, line, depth)
        word = _WORD.match(text, at)
        assert word is not None
        return Said(json.loads(word[0], parse_int=whole_number), path, line), word.end()

    def _mapping(self, path: Path, at: int, line: int, depth: int) -> tuple[Said, int]:
        items: dict[str, Said] = {}
        at = self._after_space(at + 1)
        while self._text[at] != "}":
            own = self._line_of(at)
            key, at = scanstring(self._text, at + 1)
            if key in items:
                raise BadFile(f"the key {shown(key)} stands twice (first in line {items[key].line})", own)
            at = self._after_space(self._after_space(at) + 1)
            value, at = self.value((*path, key), at, depth + 1)
            items[key] = Said(value.value, value.path, own)
            at = self._after_comma(at)
        return Said(items, path, line), at + 1

    def _after_comma(self, at: int) -> int:
        at = self._after_space(at)
        return self._after_space(at + 1) if self._text[at] == "," else at
