"""Registration: an instance that a registry lists while a block runs. For servers: most users own both client and
server.

    with Etcd("127.0.0.1:2379").register("orders", "10.0.0.1:8080"):
        serve()

    async with Consul().register("orders", "10.0.0.1:8080", meta={"version": "v2"}):
        await serve()

One shape for all registries. `id` tells the instances of a service apart (None: made of this host and this process),
`meta` and `weight` go into the list beside what the address says, and `ttl` is the number of seconds after which the
instance leaves the list if this process dies.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec

import anyio
import anyio.to_thread

from ..instance import Instance
from ..support.loggers import DISCOVERY
from ..support.untrusted import shown

_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,250}")

Address = Instance | str | Mapping[str, Any]
Parameters = ParamSpec("Parameters")


class Registration:
    """An instance that is listed while a block runs: `with`, or `async with`, as its id.

    A registry is asked by blocking code. In an `async with` that runs in a thread, and a block that is cancelled is
    deregistered all the same.
    """

    def __init__(self, block: AbstractContextManager[str]) -> None:
        self._block = block
        self._lock = threading.Lock()  # entering continues in its thread, even if the waiting task is cancelled
        self._entered = self._given_up = False

    def __enter__(self) -> str:
        with self._lock:
            if self._given_up:
                raise RuntimeError("the registration was cancelled before it began")
            name = self._block.__enter__()
            self._entered = True
            return name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            if self._entered:
                self._entered = False
                self._block.__exit__(kind, error, traceback)

    async def __aenter__(self) -> str:
        try:
            return await anyio.to_thread.run_sync(self.__enter__)
        except BaseException:
            threading.Thread(target=self._give_up, daemon=True).start()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            # (Without the error: a thread that raised it again would add to its traceback.)
            await anyio.to_thread.run_sync(self.__exit__, None, None, None)

    def _give_up(self) -> None:
        with self._lock:
            self._given_up = True
        self.__exit__(None, None, None)


def registration(block: Callable[Parameters, Iterator[str]]) -> Callable[Parameters, Registration]:
    """Make a function of one that registers, yields the instance's id and deregisters."""
    managed = contextmanager(block)

    @wraps(block)
    def made(*args: Parameters.args, **keywords: Parameters.kwargs) -> Registration:
        return Registration(managed(*args, **keywords))

    return made


def listed(
    address: Address, id: str | None, meta: Mapping[str, str] | None, weight: float | None, prefix: str = ""
) -> Instance:
    """The instance as it is to be listed. Raises ValueError or TypeError for what is no address with a port.

    prefix: of an id that is made up
    """
    instance = Instance.parse(address)
    own = id or instance.id or f"{prefix}{socket.gethostname()}-{os.getpid()}"
    if instance.port is None:
        raise ValueError(f"register: expected an address with a port, got {shown(address)}")
    return replace(
        instance,
        id=checked_id("register: id", own),
        metadata={**instance.metadata, **(meta or {})},
        weight=instance.weight if weight is None else weight,
    )


def checked_ttl(ttl: Any, least: float) -> Any:
    """Raises ValueError for what is no number of seconds that a registry takes."""
    if not isinstance(ttl, (int, float)) or isinstance(ttl, bool) or not least <= ttl <= 86_400:
        raise ValueError(f"register: ttl: expected seconds from {least:g} up, got {shown(ttl)}")
    return ttl


def checked_id(what: str, name: str) -> str:
    """The name of a service or an instance as a part of a registry's path. Raises ValueError for a name
    that would change the path.
    """
    if not (isinstance(name, str) and _ID.fullmatch(name) and name.strip(".")):
        raise ValueError(f"{what}: expected letters, digits and any of -_.:@, got {shown(name)}")
    return name


@contextmanager
def kept_alive(
    service: str,
    source: object,
    every: float,
    beat: Callable[[], None],
    end: Callable[[], None],
    trouble: tuple[type[Exception], ...],
) -> Iterator[None]:
    """While the block runs, `beat` is called every `every` seconds from a thread; then `end`. `trouble` is logged.

    A forked child that leaves the block ends nothing: the registration is its parent's.
    """
    trouble, pid = (*trouble, OSError, ValueError), os.getpid()  # a token file may be missing for a moment
    over = threading.Event()

    def keep() -> None:
        failing = False
        while not over.wait(every):
            try:
                beat()
            except trouble as error:
                if not failing:
                    DISCOVERY.warning("%s: its registration with %s was not kept alive: %s", service, source, error)
                failing = True
            else:
                if failing:
                    DISCOVERY.info("%s: %s answers again", service, source)
                failing = False

    thread = threading.Thread(target=keep, name=f"smartclient-register-{service}", daemon=True)
    try:
        thread.start()
        yield
    finally:
        over.set()
        if os.getpid() == pid:
            if thread.ident is not None:  # else no thread could be started to keep it alive
                thread.join(5)
            try:
                end()
            except trouble as error:
                DISCOVERY.warning(
                    "%s: it was not deregistered with %s, and runs out by itself: %s", service, source, error
                )
