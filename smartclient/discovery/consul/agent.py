"""python-consul over httpx: its queries, with timeouts, the token in a header, and waits that other threads can end;
and the connections that all watches of a source share.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.parse import quote

import httpx

from ...support.untrusted import whole_number
from ...support.waiting import Places, Waiter
from ..http import RegistryAnswer
from ..http_client import Answer, HttpClient
from ..threads import tell_of_forks

RESERVE = 8  # connections for queries that do not block: a first list must not wait for its turn
FEW = 16
TURN = 7.0  # seconds that a query blocks for if there are more than a few watches
TRY_MORE_AFTER = 60.0  # seconds
ONE_STORM = 5.0  # seconds within which several refusals count as one


class Agents:
    """The connections that the watches of one source share: no more than `limit`.

    Each query that blocks holds one. Where there are more watches than that, they take turns, first come, first served.
    An agent accepts 200 from one address, for all processes of a machine together (Consul: http_max_conns_per_client).
    Newer agents answer 429 above the limit, older ones reset the connection. So if a new connection fails, the watches
    share the open ones from then on, and one more is tried each minute. (The agent counts a connection that was closed
    during a blocking query until that query's wait is over: a reason not to let many block for long.)
    """

    def __init__(self, make: Callable[[], Agent], limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._make = make
        self._clock = clock
        self._limit = limit
        self.after_fork()
        tell_of_forks(self)

    def after_fork(self) -> None:
        """Start without connections and watches; also in a forked child, which has none of its parent's threads and
        must not share its sockets.
        """
        self.lock = threading.Lock()
        self._reserve = min(RESERVE, self._limit // 2)
        self.brief, self.blocking = Places(self._reserve), Places(self._limit - self._reserve)
        self._most, self._changed_at = self.blocking.limit, float("-inf")
        self._idle: list[Agent] = []
        self._ends: dict[threading.Event, Callable[[], object]] = {}  # what wakes each watch that waits
        self._watches = self.opened = self._good = 0  # good: that have answered

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While a watch goes on."""
        with self.lock:
            self._watches += 1
        try:
            yield
        finally:
            with self.lock:
                self._watches -= 1
            self._close_idle()

    def wait(self, longest: float, before: int) -> float:
        """Seconds that a query may block for. before: how many queries of its watch have blocked; the first ones must
        not hold their connections for long, since more watches may follow.
        """
        few = self._watches <= min(FEW, self.blocking.limit)
        return min(longest, TURN * 2 ** min(before, 10) if few else TURN)

    @contextmanager
    def one(self, stop: threading.Event, blocks: bool) -> Iterator[Agent]:
        """One of the connections, for a query of the watch with this `stop`. Raises ConnectionError if that is set."""
        places = self.blocking if blocks else self.brief
        self._take(places, stop)
        try:
            agent = self._some_agent()
            try:
                with self._ended_by(stop, agent.interrupt):
                    yield agent
                if stop.is_set():
                    raise ConnectionError("stopped")
            except BaseException as error:
                self._lost(agent, error, stop.is_set())
                raise
            self._answered(agent)
        finally:
            places.release()
        self._close_idle()

    def _some_agent(self) -> Agent:
        with self.lock:
            if self._idle:
                return self._idle.pop()
        agent = self._make()
        with self.lock:
            self.opened += 1
        return agent

    def _answered(self, agent: Agent) -> None:
        with self.lock:
            self._good += agent.fresh
            agent.fresh = False
            self._idle.append(agent)
            now = self._clock()
            fewer = self.blocking.limit < self._most or self.brief.limit < self._reserve
            if fewer and now - self._changed_at > TRY_MORE_AFTER:
                self._changed_at = now
                self.blocking.resize(min(self._most, self.blocking.limit + 1))
                if self.blocking.limit == self._most:
                    self.brief.resize(self._reserve)

    def _lost(self, agent: Agent, error: BaseException, stopped: bool) -> None:
        refused = agent.fresh and (
            isinstance(error, httpx.ReadError | httpx.RemoteProtocolError)
            or getattr(error, "status", None) == 429
            or (isinstance(error, httpx.ConnectError) and agent.reached)  # reset during the TLS handshake
        )
        agent.close()
        with self.lock:
            self.opened -= 1
            self._good -= not agent.fresh
            now = self._clock()
            if refused and not stopped and self._good > 1 and now - self._changed_at > ONE_STORM:
                self._changed_at = now
                self.brief.resize(1)
                self.blocking.resize(min(self.blocking.limit, self._good - 1))

    def interrupt(self, stop: threading.Event) -> None:
        """End what the watch with this `stop` waits for."""
        with self.lock:
            end = self._ends.get(stop)
            if end is not None:
                end()

    @contextmanager
    def _ended_by(self, stop: threading.Event, end: Callable[[], object]) -> Iterator[None]:
        with self.lock:
            self._ends[stop] = end
        try:
            if stop.is_set():
                raise ConnectionError("stopped")
            yield
        finally:
            with self.lock:
                self._ends.pop(stop, None)

    def _take(self, places: Places, stop: threading.Event) -> None:
        woken = threading.Event()

        def wake() -> bool:
            woken.set()
            return True

        waiter = Waiter(wake)
        if places.join(waiter):
            try:
                with self._ended_by(stop, woken.set):
                    woken.wait()
            finally:
                stopped = stop.is_set()
                if stopped or not waiter.granted:
                    places.leave(waiter)
            if stopped:
                raise ConnectionError("stopped")

    def _close_idle(self) -> None:
        """Keep no more connections than there are watches."""
        with self.lock:
            spare = [self._idle.pop() for _ in range(min(len(self._idle), self.opened - self._watches))]
            self.opened -= len(spare)
            self._good -= len(spare)
        for agent in spare:
            agent.close()


class Agent:
    """python-consul's queries over httpx: one connection, that can be interrupted.

    fresh:  it has answered nothing yet

    Its constructor is not called, since it reads CONSUL_HTTP_* by itself and refuses what it does not know (a scheme).
    """

    def __init__(self, asking: HttpClient) -> None:
        # Imported when first used: it brings requests along, which takes a while.
        from consul import base

        self.fresh = True
        self.http = _http_layer(base)(asking)
        self.token: str | None = None  # python-consul would put it into the query
        self.dc: str | None = None
        self.consistency = "default"
        self.health: Any = base.Health(self) if hasattr(base, "Health") else base.Consul.Health(self)

    def prepare_headers(self, token: str | None = None) -> dict[str, str]:
        """Called by py-consul, the maintained fork. Our layer has the token."""
        return {}

    @property
    def reached(self) -> bool:
        """Whether there was a connection, if only for a moment."""
        return bool(self.http.reached)

    def interrupt(self) -> None:
        self.http.interrupt()

    def close(self) -> None:
        self.http.close()


def _http_layer(base: Any) -> Any:
    """python-consul's `HTTPClient`, over httpx."""

    class HTTPLayer(base.HTTPClient):  # type: ignore[misc]
        def __init__(self, asking: HttpClient) -> None:
            self._asking = asking
            self._wait = 0.0
            self._extra: list[tuple[str, str]] = []
            self._known: str | None = None
            self.behind = 0.0  # seconds that the last answer was behind the leader
            self.interrupt = asking.cut

        def close(self) -> None:
            self._asking.close()

        @property
        def reached(self) -> bool:
            return self._asking.reached

        def prepare(self, extra: list[tuple[str, str]], wait: float, known: str | None) -> None:
            """Parameters of the next query that python-consul's signature lacks. known: the index of the known list"""
            self._extra, self._wait, self._known = extra, wait, known

        def use_token(self, token: str | None) -> None:
            if token is not None:
                self._asking.headers["X-Consul-Token"] = token

        def prepared(self, query: str, dc: str | None) -> list[Any]:
            """The entries of a prepared query."""
            path = f"/v1/query/{quote(query, safe='')}/execute"
            params = {} if dc is None else {"dc": dc}
            response = self._asking.get(path, params=params)
            if response.status_code == 404:
                return []
            nodes = ConsulAnswer.unless_good(response).json()["Nodes"]
            _check_not_filtered(response, bool(nodes))
            return list(nodes or ())

        def get(self, callback: Any, path: str, params: Any = None, headers: Any = None, **_: Any) -> Any:
            query = [*_pairs(params), *self._extra]
            response = ConsulAnswer.unless_good(self._asking.get(path, params=query, wait=self._wait))
            self.behind = (whole_number(response.headers.get("X-Consul-LastContact", "0")) or 0) / 1000
            if "X-Consul-Index" not in response.headers:
                raise ValueError("the answer has no X-Consul-Index: is that a Consul agent?")
            if response.headers["X-Consul-Index"] == self._known:
                return self._known, []  # the same as before: not worth reading
            entries = response.json()
            _check_not_filtered(response, bool(entries))
            return response.headers["X-Consul-Index"], entries

        def put(self, callback: Any, path: str, params: Any = None, data: Any = "", **_: Any) -> Any:
            raise NotImplementedError("this layer only reads")

        post = delete = put

    return HTTPLayer


class ConsulAnswer(RegistryAnswer):
    """An answer other than 200, in words that help."""

    hints: ClassVar = {
        403: " (does the ACL token exist, and have service:read and node:read?)",
        500: " (a bad filter, an unknown datacenter, or no leader)",
    }


def _check_not_filtered(answer: Answer, some: bool) -> None:
    """Consul ≥ 1.11 says whether the ACL token hid entries: then an empty list tells nothing about the service."""
    if not some and answer.headers.get("X-Consul-Results-Filtered-By-ACLs", "").lower() == "true":
        raise ConsulAnswer(403, "the ACL token may not read the instances")


def _pairs(params: Any) -> list[tuple[str, Any]]:
    return list(params.items() if isinstance(params, Mapping) else params or ())
