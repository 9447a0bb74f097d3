"""TLS in front of a server that has none: what it says is passed on, byte by byte."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import trustme


class Terminator:
    """Listens on an address of its own, with a certificate for 127.0.0.1 and localhost.

    ca_file: of the authority to trust;  context: that trusts it
    """

    def __init__(self, home: Path, behind: str) -> None:
        authority = trustme.CA()
        self.ca_file = str(home / "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        self.context = ssl.create_default_context(cafile=self.ca_file)
        self._own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._own.set_alpn_protocols(["h2"])
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(self._own)
        host, _, port = behind.rpartition(":")
        self._behind = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Terminator:
        return self

    def __exit__(self, *error: object) -> None:
        # A blocked accept wakes on shutdown, not on close.
        for one in (self._listener, *tuple(self._open)):
            end(one)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        try:
            raw.settimeout(5)
            with self._own.wrap_socket(raw, server_side=True) as front, socket.create_connection(self._behind) as back:
                front.settimeout(None)
                self._open |= {front, back}
                relay(front, back)
                self._open -= {front, back}
        except OSError:  # a client that does not trust us
            raw.close()


def relay(front: socket.socket, back: socket.socket) -> None:
    """Pass on what either says, until one ends; then both are ended."""
    other = threading.Thread(target=_pass_on, args=(back, front), daemon=True)
    other.start()
    _pass_on(front, back)
    other.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
    except (OSError, ValueError):
        pass
    end(target)
    end(source)


def end(one: socket.socket) -> None:
    try:
        socket.socket.shutdown(one, socket.SHUT_RDWR)
    except OSError:
        pass
