"""What a balanced call may raise beside what httpx raises itself. Every one is an httpx exception.

The mixins hold the data and the words; the classes that users catch are built once per flavour (here over
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
    """Exceptions with keyword arguments need to say how they are made again."""

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
    """The call's time was up. Raised `from` the last real error, if there was one.

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
    """Refused here, before it reached any instance, since a limit of this client is reached."""

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
    """Something is wrong on our side of a connection: no instance would do better. For `Flavour.fault` to know."""


class NotTaken(Exception):
    """The server says that it did not take a request which was sent (HTTP/2). For `Flavour.fault` to know.

    ended: since it ends the connection: another one will do
    """

    ended = False


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, what it came of, and the members of groups among them."""
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
    text = line(str(error).partition("\n")[0], LINE)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def say_where(error: BaseException, service: str, instance: str | None) -> None:
    """Begin an exception's message with the service and the instance it was about: it is what `logger.error("%s", e)`
    and SDKs show. One that a transport of the user's raises again and again is told anew each time.
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
