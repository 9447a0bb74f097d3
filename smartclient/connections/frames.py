"""Frames: reads the frames of an HTTP/2 connection as they pass, to learn which requests the server processes.

h2 treats GOAWAY as the end of everything, though the server still answers earlier requests (RFC 9113 §6.8), and
httpcore then raises `LocalProtocolError` for all, as if our requests were bad. So GOAWAY is hidden from h2. After it no
request is sent on that connection, those that the server has accepted are answered as usual, and the others (streams
above GOAWAY's last stream) are ended with RST_STREAM, REFUSED_STREAM: "may be sent again" (§8.7).

Only frame headers are read, and the few frames that matter (RFC 9113 §4.1: length, type, flags, stream).
"""

from __future__ import annotations

HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0x1, 0x3, 0x4, 0x7
TOLD = frozenset({RST_STREAM, SETTINGS, GOAWAY})  # read whole
REFUSED_STREAM = 0x7
MAX_CONCURRENT_STREAMS = 0x3
ACK = 0x1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER = 9  # bytes
LONGEST = 1 << 14  # of a frame that is read whole here
FIRST_STREAMS = 100  # at once, until the server says


class Frames:
    """The frames of one connection.

    open:     it accepts more requests
    streams:  how many the server allows at once
    highest:  highest stream with a sent request
    """

    __slots__ = ("_kept", "_last", "_left", "_refused", "highest", "open", "streams")

    def __init__(self) -> None:
        self.open: bool = True
        self.streams: int = FIRST_STREAMS
        self.highest: int = 0
        self._last: int | None = None  # GOAWAY's last stream, once that was received
        self._refused: set[int] = set()
        self._kept = b""  # the start of an incomplete frame
        self._left = 0  # bytes of a frame that is passing

    def sent(self, stream: int) -> bool:
        """Whether anything of that stream's request has gone out."""
        return stream <= self.highest

    def left_out(self, stream: int) -> bool:
        """Whether GOAWAY came without that stream's request being processed."""
        return self._last is not None and stream > self._last

    def refused(self, stream: int) -> bool:
        """Whether the server refused that stream: it did not process its request."""
        return stream in self._refused

    def outbound(self, data: bytes) -> None:
        """That is written: whole frames, as h2 hands them out."""
        at = len(PREFACE) if data.startswith(PREFACE) else 0
        while at + HEADER <= len(data):
            if data[at + 3] == HEADERS:
                self.highest = max(self.highest, _stream(data, at))
            at += HEADER + _length(data, at)

    def inbound(self, data: bytes) -> bytes:
        """The data to pass to h2 instead; if empty: nothing yet."""
        if len(data) <= self._left:  # the middle of a long frame: mostly DATA
            self._left -= len(data)
            return data
        passed = [data[: self._left]]
        data, self._left = self._kept + data[self._left :], 0
        at = begun = 0
        while len(data) - at >= HEADER:
            length, kind = _length(data, at), data[at + 3]
            end = at + HEADER + length
            if kind in TOLD and length <= LONGEST:
                if end > len(data):
                    break
                payload = data[at + HEADER : end]
                if kind == SETTINGS:
                    self._settings(payload, data[at + 4])
                elif kind == GOAWAY:
                    passed += [data[begun:at], self._goaway(payload)]
                    begun = end
                elif int.from_bytes(payload, "big") == REFUSED_STREAM:
                    self._refused.add(_stream(data, at))
            elif end > len(data):
                self._left, at = end - len(data), len(data)
                break
            at = end
        passed.append(data[begun:at])
        self._kept = data[at:]
        return b"".join(passed)

    def _settings(self, payload: bytes, flags: int) -> None:
        if flags & ACK:
            return
        for at in range(0, len(payload) - 5, 6):
            if int.from_bytes(payload[at : at + 2], "big") == MAX_CONCURRENT_STREAMS:
                self.streams = int.from_bytes(payload[at + 2 : at + 6], "big")

    def _goaway(self, payload: bytes) -> bytes:
        """What h2 is told instead: which streams were not taken."""
        self.open = False
        last = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        if self._last is not None and last >= self._last:
            return b""
        upto, self._last = self.highest if self._last is None else min(self.highest, self._last), last
        first = last + 1 if last % 2 == 0 else last + 2  # ours are odd
        return b"".join(_reset(stream, REFUSED_STREAM) for stream in range(first, upto + 1, 2))


def _length(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "big")


def _stream(data: bytes, at: int) -> int:
    return int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF


def _reset(stream: int, code: int) -> bytes:
    return b"\x00\x00\x04" + bytes((RST_STREAM, 0)) + stream.to_bytes(4, "big") + code.to_bytes(4, "big")
