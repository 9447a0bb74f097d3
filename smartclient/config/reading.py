"""A configuration file: its bytes, judged before they are parsed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from .json_reader import read_json
from .said import BadFile, Said
from .toml_reader import read_toml
from .yaml_reader import read_yaml

MOST_BYTES = 1_000_000
READERS: dict[str, Callable[[str], Said]] = {
    ".json": read_json,
    ".toml": read_toml,
    ".yaml": read_yaml,
    ".yml": read_yaml,
}


def reader_of(path: Path) -> Callable[[str], Said]:
    """Raises BadFile for a name that tells no format."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise BadFile("expected a name that ends in .yaml, .yml, .toml or .json")
    return reader


def content_of(path: Path) -> bytes:
    """All of a file that is one. Raises BadFile: a FIFO would hold up whoever opens it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            kind = os.fstat(descriptor)
            if not stat.S_ISREG(kind.st_mode):
                what = "a directory" if stat.S_ISDIR(kind.st_mode) else "not a file"
                raise BadFile(f"is {what}")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(MOST_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        if isinstance(error, IsADirectoryError):
            raise BadFile("is a directory") from None
        raise BadFile(f"cannot be read: {error.strerror or error}") from None
    if len(content) > MOST_BYTES:
        raise BadFile(f"is longer than {MOST_BYTES:,} bytes")
    return content


def said_in(content: bytes, reader: Callable[[str], Said]) -> Said:
    """What a file's content says. Raises BadFile."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise BadFile("is not UTF-8 (UTF-16, or no text)")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFile("is not UTF-8", content.count(b"\n", 0, error.start) + 1) from None
    if not text.strip():
        raise BadFile("is empty")
    said = reader(text)
    if not isinstance(said.value, dict):
        raise BadFile("expected a mapping with `version: 1`", said.line)
    return said
