"""What differs between httpx and httpx2 (and httpcore and httpcore2): names, exceptions, connection classes.

httpx2 is the maintained continuation of httpx, which our users have: the same API, unrelated classes. All other code in
this package depends on neither; it gets a `Flavour`.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import h11
import httpcore
import httpx

from . import errors
from .errors import NotTaken, OwnTrouble, causes
from .retry.request_body import WatchedStream


class Fault(NamedTuple):
    """What an exception of an attempt means.

    what:        a short name
    repeatable:  another node may do better
    blamed:      it is the node's fault, not a problem on our side
    sent:        part of the request may have reached the node
    """

    what: str
    repeatable: bool
    blamed: bool
    sent: bool


LOCAL = Fault("local", repeatable=False, blamed=False, sent=True)
NEVER_CONNECTED = Fault("never connected", repeatable=True, blamed=True, sent=False)
CERTIFICATE = Fault("certificate", repeatable=True, blamed=False, sent=False)
EXHAUSTED = Fault("exhausted", repeatable=True, blamed=False, sent=False)
"""We cannot open connections any more: only an existing connection helps."""
REFUSED = Fault("refused", repeatable=True, blamed=False, sent=False)
"""HTTP/2: the server says that it did not take the request (RFC 9113 §8.7)."""
ENDED = Fault("ended", repeatable=True, blamed=False, sent=False)
"""The same, because it was closing the connection: another one will do (RFC 9113 §6.8)."""
BROKEN = Fault("broken", repeatable=True, blamed=True, sent=True)

OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})


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
        self._mapped[self.httpcore.ConnectionNotAvailable] = self.httpx.ConnectError  # only a pool should see it

    def mapped(self, error: type[BaseException]) -> type[Exception] | None:
        """The httpx exception that stands for one of httpcore's; None for any other exception."""
        for cls in error.__mro__:
            to = self._mapped.get(cls)
            if to is not None:
                return to
        return None

    def translated(self, error: BaseException, connected: bool = True) -> BaseException:
        """Translate an exception of httpcore, or of the socket layer below it, to httpx's; return any other unchanged.

        connected: false: nothing can have been sent yet

        Returned, not raised: an exception held by a frame of its own traceback is a reference cycle.
        """
        mapped = self.mapped(type(error))
        if mapped is None and not connected and _is_of_connecting(error):
            mapped = self.httpx.ConnectError
        elif mapped is None and isinstance(error, ssl.SSLError):
            mapped = self.httpx.ReadError
        if mapped is None:
            return error
        made = mapped(str(error))
        made.__cause__ = error
        return made

    def fault(self, error: BaseException) -> Fault:
        """Classify an exception: was anything sent, and whose fault was it?"""
        httpx = self.httpx
        if not isinstance(error, httpx.TransportError):
            return LOCAL
        connecting = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
        if _is_ours(error):
            return EXHAUSTED if connecting else LOCAL
        if connecting:
            if any(isinstance(cause, OwnTrouble) for cause in causes(error)):
                return LOCAL
            return CERTIFICATE if _is_certificate_error(error) else NEVER_CONNECTED
        if isinstance(error, (httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
            return LOCAL
        for cause in causes(error):
            if isinstance(cause, NotTaken):
                return ENDED if cause.ended else REFUSED
        return BROKEN


def _subclasses(module: Any) -> Iterator[type[BaseException]]:
    for name in dir(module):
        value = getattr(module, name)
        if isinstance(value, type) and issubclass(value, Exception):
            yield value


def _is_of_connecting(error: BaseException) -> bool:
    """A name that cannot be resolved, no file descriptor, no thread for the resolver, …: each becomes a ConnectError,
    since other instances may not have the problem.
    """
    return isinstance(error, (OSError, UnicodeError, OverflowError, OwnTrouble)) or _is_no_thread(error)


def _is_no_thread(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and "start new thread" in str(error)


def _is_ours(error: BaseException) -> bool:
    """Descriptors, ports, memory or threads of this process or machine are used up."""
    return any(
        (isinstance(cause, OSError) and cause.errno in OURS) or isinstance(cause, MemoryError) or _is_no_thread(cause)
        for cause in causes(error)
    )


def _is_certificate_error(error: BaseException) -> bool:
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes(error))


HTTPX = Flavour(httpx, httpcore, errors)
