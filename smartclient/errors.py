"""The exceptions that a balanced call may raise, besides httpx's own. Each is an httpx exception.

The mixins hold the fields and messages; the classes that users catch are built once per flavour (here over
httpx, in `smartclient.httpx2` over httpx2), at module level, so that they pickle.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import httpx

from .support.untrusted import line

LINE = 500  # characters of an error in a message
SAID = "_smartclient_message"  # attribute of an exception: its message before ours


class _Picklable(Exception):
    """Exceptions with extra fields must define how they are unpickled."""

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class NoInstancesFields(_Picklable):
    """There is nowhere to send the call.

    service:    the service asked for
    reason:     why, in words
    """

    service: str
    reason: str

    @classmethod
    def of(cls, service: str, reason: str) -> Any:
        error = cls(f"{service}: no instances: {reason}")
        error.service, error.reason = service, reason
        return error


class DeadlineExceededFields(_Picklable):
    """The call's deadline has passed. Raised `from` the last real error, if there was one.

    service:    the service called
    deadline:   what it was given, in seconds
    """

    service: str
    deadline: float

    @classmethod
    def of(cls, service: str, deadline: float, where: str) -> Any:
        error = cls(f"{service}: deadline of {deadline:.3g} s exceeded {where}")
        error.service, error.deadline = service, deadline
        return error


class OverloadedFields(_Picklable):
    """Refused by this client, before any instance was called: one of its limits is reached."""

    service: str

    @classmethod
    def of(cls, service: str, reason: str) -> Any:
        error = cls(f"{service}: overloaded: {reason}")
        error.service = service
        return error


class NoInstances(NoInstancesFields, httpx.ConnectError):
    __doc__ = NoInstancesFields.__doc__


class DeadlineExceeded(DeadlineExceededFields, httpx.TimeoutException):
    __doc__ = DeadlineExceededFields.__doc__


class Overloaded(OverloadedFields, httpx.PoolTimeout):
    __doc__ = OverloadedFields.__doc__


class OwnTrouble(Exception):
    """A problem on our side of a connection: no other instance would do better. Used by `Flavour.fault`."""


class NotTaken(Exception):
    """The server says that it did not process a request that was sent (HTTP/2). Used by `Flavour.fault`.

    ended: because it is closing the connection: another one will do
    """

    ended = False


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, its causes and contexts, and the members of groups among them."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


def describe(error: BaseException) -> str:
    """An exception in one line, for reports and logs."""
    try:
        text = line(str(error).partition("\n")[0], LINE)
    except Exception:  # a user's exception that cannot say itself must not take the place of itself
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def say_where(error: BaseException, service: str, instance: str | None) -> None:
    """Put the service and the instance at the start of an exception's message, which `logger.error("%s", e)` and SDKs
    show. An exception object that a user's transport raises repeatedly gets a new prefix each time.
    """
    message = getattr(error, SAID, error.args[0] if error.args else "")
    if not isinstance(message, str) or (instance is None and message.startswith(f"{service}: ")):
        return
    setattr(error, SAID, message)
    if message.startswith(f"{service}: "):  # one of ours
        told = f"{message} (last tried: {instance})"
    else:
        told = ": ".join(part for part in (service, instance, message) if part)
    error.args = (told, *error.args[1:])


def annotate(error: BaseException, note: str) -> None:
    """Add a line to what is printed of an exception (Python 3.10 has no notes: there it joins the message)."""
    if sys.version_info >= (3, 11):
        error.add_note(note)
    elif error.args and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{note}", *error.args[1:])
