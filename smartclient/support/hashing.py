"""A hash that is the same in every process and on every machine (Python's own is not): two clients must send a key to
the same node.

CRC-32 from zlib reads the text at C speed, but is linear: the values of similar texts differ by constants. Two rounds
of multiply and xor-shift (the finalisers of MurmurHash3 and splitmix64 are of this kind) undo that. Not cryptographic.
"""

from __future__ import annotations

from zlib import crc32

_MASK = 0xFFFFFFFFFFFFFFFF
SPAN = 2.0**64


def hash_of(text: str, seed: int = 0) -> int:
    """64 bits."""
    value = (crc32(text.encode("utf-8", "surrogatepass")) + seed) * 0x9E3779B97F4A7C15 & _MASK
    value = (value ^ value >> 32) * 0xD6E8FEB86659FD93 & _MASK
    return value ^ value >> 32
