"""Whether a request's body can be produced again, exactly.

    bytes, text, json, form data         always
    a file or anything seekable          yes, from the position it was given at
    multipart                            if every file in it can (httpx always sends those from 0)
    an iterable that is not an iterator  yes, if it gives another iterator each time it is asked
    a generator or other iterator        only while nothing of it was taken
    a stream class of the user's own     only while nothing of it was taken

Retrying with a consumed body sends nothing and gets a 200. So what is sent again must be as long as what was sent
before, else the attempt is aborted: there is no other way to detect an iterable whose iterators share a consumed
source. What httpx makes of a body is private (`Request._content`,
`IteratorByteStream._stream`, `MultipartStream.fields`, `FileField.file`); it is read here and nowhere else, and a test
pins it.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar


class RequestBody:
    """A request body that is more than bytes in memory. `stream` takes the request's own place while it is sent."""

    __slots__ = ("_longest", "_position", "_replayable", "_source", "begun", "given", "spent", "stream")

    def __init__(self, stream: Any, watched: type[Any]) -> None:
        self.begun: bool = False
        self.given: int = 0  # bytes, this time
        self._longest = 0
        self.spent: Any = watched.spent
        self._source, self._position = _file_of(stream)
        self._replayable = self._position is not None or _gives_fresh_iterators(stream, watched.__bases__[1:])
        self.stream: Any = watched(stream, self)

    @property
    def repeatable(self) -> bool:
        """Whether it can be sent once more."""
        return self._replayable or not self.begun

    def rewind(self) -> None:
        """Prepare for being sent once more."""
        self._longest = max(self._longest, self.given)
        self.given = 0
        if self._position is not None and self.begun:
            self._source.seek(self._position)

    def ended(self) -> None:
        """The source is exhausted. Raises StreamConsumed if it gave more when it was sent before."""
        if self.given < self._longest:
            self._replayable = False
            raise self.spent()


class WatchedStream:
    """The request's stream; records when something is read from it.

    Subclassed once per flavour, together with its byte stream classes.

    spent: the flavour's StreamConsumed
    """

    spent: ClassVar[type[Exception]]

    def __init__(self, stream: Any, body: RequestBody) -> None:
        self._stream = stream
        self._body = body
        self._chunks: _Chunks | None = None

    def __iter__(self) -> Iterator[bytes]:
        body = self._body
        body.begun = True
        for chunk in self._stream:
            body.given += len(chunk)
            yield chunk
        body.ended()

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = _Chunks(self._stream, self._body)
        return self._chunks

    async def aclose(self) -> None:
        """Close the source: httpcore leaves an async generator unfinished when the server disconnects."""
        if self._chunks is not None:
            await self._chunks.aclose()


class _Chunks:
    """The chunks of an async stream, directly from its source: httpx's generator would not close the user's."""

    def __init__(self, stream: Any, body: RequestBody) -> None:
        source: Any = getattr(stream, "_stream", None)
        direct = _is_httpx_iterator(stream) and hasattr(source, "__aiter__") and not hasattr(source, "aread")
        if direct and stream._is_stream_consumed and inspect.isasyncgen(source):
            direct = False  # httpx says StreamConsumed
        self._stream = stream if direct else None
        self._body = body
        self._chunks: Any = (source if direct else stream).__aiter__()
        self._begun = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._begun:
            self._begun = self._body.begun = True
            if self._stream is not None:
                self._stream._is_stream_consumed = True
        try:
            chunk: bytes = await self._chunks.__anext__()
        except StopAsyncIteration:
            self._body.ended()
            raise
        self._body.given += len(chunk)
        return chunk

    async def aclose(self) -> None:
        if self._begun and inspect.isasyncgen(self._chunks):
            await self._chunks.aclose()


def body_of(request: Any, byte_stream: type[Any], watched: type[Any]) -> RequestBody | None:
    """The tracked body of a request; None if it is bytes in memory.

    byte_stream, watched: the flavour's `ByteStream` and `WatchedStream`
    """
    if hasattr(request, "_content") or isinstance(request.stream, byte_stream):
        return None
    return RequestBody(request.stream, watched)


def _file_of(stream: Any) -> tuple[Any, int | None]:
    """The seekable file that a stream reads, and where it stands."""
    source: Any = getattr(stream, "_stream", None)
    if not hasattr(source, "read") or not _seekable(source):
        return None, None
    try:
        return source, source.tell()
    except (OSError, ValueError, AttributeError):
        return None, None


def _gives_fresh_iterators(stream: Any, streams: tuple[type[Any], ...]) -> bool:
    if hasattr(stream, "fields"):  # multipart
        files = [field.file for field in stream.fields if hasattr(field, "file")]
        return all(isinstance(file, (str, bytes)) or _seekable(file) for file in files)
    source: Any = getattr(stream, "_stream", None)
    if not _is_httpx_iterator(stream) or hasattr(source, "read") or hasattr(source, "aread"):
        return False  # a stream class of the user's own, or a file that cannot seek
    if isinstance(source, (*streams, Iterator, AsyncIterator)):
        return False  # a generator, or another response's body
    begin = iter if hasattr(source, "__iter__") else type(source).__aiter__
    try:
        first, second = begin(source), begin(source)
    except Exception:
        return False
    return first is not second


def _seekable(file: Any) -> bool:
    try:
        return bool(file.seekable())
    except AttributeError:
        return hasattr(file, "seek") and hasattr(file, "tell")
    except ValueError:
        return False  # closed


def _is_httpx_iterator(stream: Any) -> bool:
    """Exactly httpx's own stream over an iterable: a class of the user's, a subclass too, may do anything with
    `_stream`.
    """
    return type(stream).__name__ in ("IteratorByteStream", "AsyncIteratorByteStream") and type(stream).__module__ in (
        "httpx._content",
        "httpx2._content",
    )
