"""A small HTTP/2 server (h2's own state machine, over TLS), that counts its connections."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import h2.config
import h2.connection
import h2.events


class H2Server:
    """goaway: each connection says GOAWAY after its first answer, and is closed soon after"""

    def __init__(self, context: ssl.SSLContext, goaway: bool = False) -> None:
        self._goaway = goaway
        context.set_alpn_protocols(["h2"])
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.requests = 0
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        for sock in (self._listener, *self._open):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(raw)
            thread = threading.Thread(target=self._serve, args=(raw,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        try:
            with self._context.wrap_socket(raw, server_side=True) as sock:
                self._open.append(sock)
                state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
                state.initiate_connection()
                sock.sendall(state.data_to_send())
                while data := sock.recv(65536):
                    for event in state.receive_data(data):
                        if isinstance(event, h2.events.DataReceived):
                            state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                        elif isinstance(event, h2.events.StreamEnded):
                            self.requests += 1
                            state.send_headers(event.stream_id, [(":status", "200"), ("content-length", "2")])
                            state.send_data(event.stream_id, b"ok", end_stream=True)
                            if self._goaway:
                                state.close_connection(last_stream_id=event.stream_id)
                    sock.sendall(state.data_to_send())
                    if self._goaway and state.state_machine.state is h2.connection.ConnectionState.CLOSED:
                        sock.settimeout(0.3)
                        while sock.recv(65536):  # else the kernel would say RST, and the answer be lost
                            pass
                        break
        except OSError:
            pass


@contextmanager
def h2_server(context: ssl.SSLContext, goaway: bool = False) -> Iterator[H2Server]:
    server = H2Server(context, goaway)
    try:
        yield server
    finally:
        server.stop()
