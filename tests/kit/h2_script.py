"""An HTTP/2 server whose every frame a test decides, without TLS (prior knowledge) or with it. It runs in an event loop
of a thread of its own.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h2.config
import h2.connection
import h2.events
from hyperframe.frame import Frame, GoAwayFrame, RstStreamFrame

Plan = Callable[["Peer", int, str], None]


class Peer(asyncio.Protocol):
    """One connection, seen from the server. number: of it, from 1; requests: streams, in order of arrival"""

    def __init__(self, script: H2Script) -> None:
        self.script = script
        self.requests: list[int] = []
        self.reset: list[int] = []
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._paths: dict[int, str] = {}

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.script.peers.append(self)
        self.number = len(self.script.peers)
        self.state.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        for event in self.state.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self._paths[event.stream_id] = dict(event.headers)[b":path"].decode()
            elif isinstance(event, h2.events.DataReceived):
                self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.reset.append(event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.requests.append(event.stream_id)
                self.script.plan(self, event.stream_id, self._paths[event.stream_id])
        self.flush()

    def flush(self) -> None:
        self.transport.write(self.state.data_to_send())

    def write(self, *frames: Frame) -> None:
        """Past the state machine: it would end with a GOAWAY."""
        self.transport.write(b"".join(frame.serialize() for frame in frames))

    def later(self, seconds: float, function: Callable[..., object], *args: Any) -> None:
        asyncio.get_running_loop().call_later(seconds, function, *args)

    def answer(self, stream: int, body: bytes = b"ok", end: bool = True) -> None:
        """Answer, and count the request as done."""
        if self.transport.is_closing() or stream in self.reset:
            return
        self.script.done[self._paths[stream]] += 1
        self.state.send_headers(stream, [(":status", "200")])
        self.state.send_data(stream, body, end_stream=end)
        self.flush()

    def goaway(self, last: int, code: int = 0) -> None:
        self.write(GoAwayFrame(last_stream_id=last, error_code=code))

    def refuse(self, stream: int) -> None:
        self.write(RstStreamFrame(stream, error_code=7))

    def close(self) -> None:
        self.transport.close()


class H2Script:
    """plan: called with each request; done: how often each path was answered; peers: the connections there were"""

    def __init__(self, plan: Plan, tls: ssl.SSLContext | None = None) -> None:
        self.plan = plan
        self.done: Counter[str] = Counter()
        self.peers: list[Peer] = []
        self._tls = tls
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._started.wait(5)

    @property
    def open(self) -> int:
        return sum(not peer.transport.is_closing() for peer in self.peers)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await self._loop.create_server(lambda: Peer(self), "127.0.0.1", 0, ssl=self._tls)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        await self._stop.wait()
        server.close()
        for peer in self.peers:
            peer.transport.abort()
        await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@contextmanager
def h2_script(plan: Plan, tls: ssl.SSLContext | None = None) -> Iterator[H2Script]:
    script = H2Script(plan, tls)
    try:
        yield script
    finally:
        script.stop()
