"""What each HTTP status means to us: one table."""

from __future__ import annotations

TOO_MANY = 429
MISDIRECTED = 421  # RFC 9110 §15.5.20: another server, or another connection, would answer
NOT_DONE = frozenset({MISDIRECTED, 425})  # the server says that it did nothing: any method may be sent again
NOT_THE_SERVERS = frozenset({408, 425})  # said of our connection, not of the server's health
TRY_AGAIN = NOT_DONE | {408}
BAD_GATEWAYS = frozenset({502, 503, 504})  # a proxy could not reach a server, or was told not to try


def is_failure(status: int) -> bool:
    """Whether an answer counts as a failure of its server."""
    return status >= 500 or status in (TOO_MANY, MISDIRECTED)


def is_wrong(status: int | None) -> bool:
    """Whether the status blames the client (4xx). Such an answer may be faster than a good one."""
    return status is not None and 400 <= status < 500


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "QUERY"})
"""Names of methods that may be labels: anybody may make up others."""
