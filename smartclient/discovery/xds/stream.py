"""The aggregated discovery stream (ADS) of an xDS control plane, which all watches of a source share."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any

from .messages import Assignment, Messages


class Stream:
    """One aggregated stream, and the watches that share it. It ends for good at its first break."""

    def __init__(self, messages: Messages, channel: Any, token: str | None, source: str) -> None:
        self.pid: int = os.getpid()
        self._messages = messages
        self._source = source
        self._lock = threading.Lock()
        self._queues: dict[str, list[SimpleQueue[Any]]] = {}
        self._latest: dict[str, Assignment] = {}
        self._wanted: SimpleQueue[bool] = SimpleQueue()  # something is to be sent; False: no more
        self._version = self._nonce = ""
        self._problem: str | None = None
        self._over = False
        self._channel = channel()
        self.began: float = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"smartclient-{source}", daemon=True)
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._call = messages.stub(self._channel).StreamAggregatedResources(self._requests(), metadata=metadata)

    def start(self) -> None:
        """Raises RuntimeError if no thread is to be had."""
        self._thread.start()

    def subscribe(self, name: str, queue: SimpleQueue[Any]) -> bool:
        """False: it has ended."""
        with self._lock:
            if self._over:
                return False
            self._queues.setdefault(name, []).append(queue)
            if name in self._latest:
                queue.put(self._latest[name])
        self._wanted.put(True)
        return True

    def unsubscribe(self, name: str, queue: SimpleQueue[Any]) -> bool:
        """Whether that was the last one: the stream has ended."""
        with self._lock:
            queues = self._queues.get(name, [])
            if queue in queues:
                queues.remove(queue)
            if not queues:
                self._queues.pop(name, None)
            last = not self._queues
            self._over = self._over or last
        if self.pid != os.getpid():
            return last  # the parent's
        if last:
            self._wanted.put(False)
            self._call.cancel()
            if not self._thread.ident:  # it could not be started
                self._channel.close()
        else:
            self._wanted.put(True)
        return last

    def _requests(self) -> Iterator[Any]:
        first = True
        while self._wanted.get():
            try:
                while self._wanted.get_nowait():  # one request says it all
                    pass
                return
            except Empty:
                pass
            with self._lock:
                names, problem, self._problem = sorted(self._queues), self._problem, None
                version, nonce = self._version, self._nonce
                # Not earlier: for a name wanted again before this request was sent, the server would send nothing.
                self._latest = {name: said for name, said in self._latest.items() if name in self._queues}
            yield self._messages.request(names, version, nonce, problem, node=first)
            first = False

    def _run(self) -> None:
        try:
            for response in self._call:
                found, problem = self._messages.assignments(response)
                with self._lock:
                    self._nonce, self._problem = response.nonce, problem
                    if problem is None:
                        self._version = response.version_info
                    for name, said in found.items():
                        if name in self._queues:
                            self._latest[name] = said
                            for queue in self._queues[name]:
                                queue.put(said)
                    if problem is not None:
                        # The refused part may be theirs: this is an error, and does not mean that they do not exist.
                        trouble = ConnectionError(f"an answer was refused: {problem}")
                        unknown = [queues for name, queues in self._queues.items() if name not in self._latest]
                        for queue in (queue for queues in unknown for queue in queues):
                            queue.put(trouble)
                self._wanted.put(True)
            why = "the stream ended"
        except self._messages.grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            hint = " (is the token good?)" if code.name in ("UNAUTHENTICATED", "PERMISSION_DENIED") else ""
            why = f"{code.name}: {' '.join(details.split())[:200]}{hint}"
        with self._lock:
            self._over = True
            waiting = [queue for queues in self._queues.values() for queue in queues]
        for queue in waiting:
            queue.put(ConnectionError(why))
        self._wanted.put(False)
        self._channel.close()
