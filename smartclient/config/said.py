"""What a configuration file says, with where each value stands, so that every problem names its line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..support.checks import nearest

Path = tuple[str, ...]


class BadFile(ValueError):
    """It cannot be read as what it should be. line: from 1; 0: the whole file"""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line: int = line


def hint(key: str, known: Iterable[str]) -> str:
    """ "; did you mean deadline?", or nothing: a key is written without quotes."""
    return nearest(key, known).replace("'", "")


class Problem(NamedTuple):
    """Something wrong with a value.

    line:  from 1; 0: the whole file, or a variable of the environment
    path:  "services.payments.deadline", or the variable's name
    """

    line: int
    path: str
    text: str

    def of(self, file: object) -> str:
        """As a line, of this file."""
        if self.path.startswith("SMARTCLIENT_"):
            return f"{self.path}: {self.text}"
        where = f"{file}:{self.line}" if self.line else f"{file}"
        return f"{where}: {self.path}: {self.text}" if self.path else f"{where}: {self.text}"


class Said:
    """A value and where it stands.

    value:  None, a bool, number or string; a list of `Said`; or a dict of `Said` by names
    path:   of its keys in the file; of one that the environment says, the variable's name
    line:   in the file, from 1; 0: the environment's
    """

    __slots__ = ("line", "path", "value")

    def __init__(self, value: Any, path: Path, line: int) -> None:
        self.value: Any = value
        self.path: Path = path
        self.line: int = line

    @property
    def plain(self) -> Any:
        """The value alone."""
        if isinstance(self.value, dict):
            return {key: one.plain for key, one in self.value.items()}
        if isinstance(self.value, list):
            return [one.plain for one in self.value]
        return self.value

    @property
    def variable(self) -> str | None:
        """Of the environment, which says it; None: the file does."""
        return self.path[0] if self.path and not self.line else None

    def problem_at(self, path: Path, text: str) -> Problem:
        """Said of what stands at a path below it; as near to that as there is something."""
        found = self
        for depth, key in enumerate(path):
            if not (isinstance(found.value, dict) and key in found.value):
                return found.problem(text, *path[depth:])
            found = found.value[key]
        return found.problem(text)

    def leaves(self, path: Path = ()) -> Iterator[tuple[Path, Said]]:
        """All values that are no mappings, with their paths."""
        if not isinstance(self.value, dict) or not self.value:
            yield path, self
            return
        for key, one in self.value.items():
            yield from one.leaves((*path, key))

    def problem(self, text: str, *more: str) -> Problem:
        """more: keys below it, that are not there"""
        return Problem(self.line, self.variable or ".".join((*self.path, *more)), text)


DEEPEST = 50  # levels of a file

NOTHING: Said = Said({}, (), 0)
CHOICES: tuple[str, ...] = ("balancer", "inner", "wait", "stop")  # written as one of several kinds


def merged(base: Said, over: Said, key: str = "") -> Said:
    """Both, where `over` says more: mappings are merged, key by key. Another kind (of balancer, of wait) is another
    thing altogether: nothing of the one below is kept.
    """
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    if key in CHOICES and not _same_kind(base, over, by_name=key in ("balancer", "inner")):
        return over
    both = dict(base.value)
    for name, value in over.value.items():
        both[name] = merged(both[name], value, name) if name in both else value
    return Said(both, over.path, over.line)


def _same_kind(base: Said, over: Said, by_name: bool) -> bool:
    if not by_name:
        return set(base.value) == set(over.value)
    name = over.value.get("name")
    was = base.value.get("name")
    return name is None or (was is not None and name.value == was.value)
