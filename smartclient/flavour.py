"""What differs between httpx and httpx2 (and httpcore and httpcore2): names, exceptions, connection classes.

httpx is what our users have, httpx2 its maintained continuation: the same API, unrelated classes. Everything else in
this package knows neither; it is handed a `Flavour`.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import h11
import httpcore
import httpx

from . import errors
from .retry.replay import WatchedStream


class Fault(NamedTuple):
    """What an exception of an attempt means.

    repeatable:  another node may do better
    blamed:      it is the node's fault, not trouble of our own
    sent:        something of the request may have reached the node
    """

    repeatable: bool
    blamed: bool
    sent: bool


LOCAL = Fault(repeatable=False, blamed=False, sent=True)
NEVER_CONNECTED = Fault(repeatable=True, blamed=True, sent=False)
CERTIFICATE = Fault(repeatable=True, blamed=False, sent=False)
BROKEN = Fault(repeatable=True, blamed=True, sent=True)


class Flavour:
    """One of the two libraries.

    httpx, httpcore:  the modules
    errors:           the module with our errors over it
    """

    def __init__(self, httpx: ModuleType, httpcore: ModuleType, errors: Any) -> None:
        self.httpx: Any = httpx
        self.httpcore: Any = httpcore
        self.NoInstances: Any = errors.NoInstances
        self.DeadlineExceeded: Any = errors.DeadlineExceeded
        self.Overloaded: Any = errors.Overloaded
        self.TransportError: type[Exception] = self.httpx.TransportError
        # On a reused connection, before any response byte: the server closed it as we sent. FIN mostly gives the first,
        # RST the second.
        self.STALE: tuple[type[Exception], ...] = (self.httpx.RemoteProtocolError, self.httpx.ReadError)
        self.ByteStream: Any = self.httpx.ByteStream
        self.WatchedStream: Any = type(
            "WatchedStream",
            (WatchedStream, self.httpx.SyncByteStream, self.httpx.AsyncByteStream),
            {"spent": self.httpx.StreamConsumed},
        )
        # httpcore's exceptions have httpx's names, and httpx its own map of them is private.
        self._mapped: dict[type[BaseException], type[Exception]] = {
            error: getattr(self.httpx, error.__name__)
            for error in _subclasses(self.httpcore)
            if isinstance(getattr(self.httpx, error.__name__, None), type)
        }
        # h11's escapes httpcore unmapped while the body is sent ("too much data for declared Content-Length").
        self._mapped[h11.LocalProtocolError] = self.httpx.LocalProtocolError

    def mapped(self, error: type[BaseException]) -> type[Exception] | None:
        """The httpx exception that stands for one of httpcore's; None for any other exception."""
        for cls in error.__mro__:
            to = self._mapped.get(cls)
            if to is not None:
                return to
        return None

    def fault(self, error: BaseException) -> Fault:
        """By phase (was anything sent?) and by whose fault it was."""
        httpx = self.httpx
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return CERTIFICATE if _is_certificate_error(error) else NEVER_CONNECTED
        if isinstance(error, (httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
            return LOCAL
        if isinstance(error, httpx.TransportError):
            return BROKEN
        return LOCAL


def _subclasses(module: Any) -> Iterator[type[BaseException]]:
    for name in dir(module):
        value = getattr(module, name)
        if isinstance(value, type) and issubclass(value, Exception):
            yield value


def _is_certificate_error(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


HTTPX = Flavour(httpx, httpcore, errors)
