"""A Unix socket of the user's own that shows the status of a client: with `SMARTCLIENT_STATUS=1`, or
`Client(…, status=True)`.

In `$XDG_RUNTIME_DIR/smartclient/`, else in a folder of mode 0700 under the temporary one; mode 0600. It speaks enough
HTTP for `smartclient top` and `curl --unix-socket`. A socket that cannot be opened is a warning: nobody's calls depend
on it. A reader that is slow holds up nobody.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import stat
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..support.loggers import logger

LONGEST = 103  # bytes of a path: sockaddr_un has room for 108 on Linux, for 104 on macOS
PATIENCE = 2.0  # seconds for a reader
HEAD = b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
READERS = 8  # at once
_numbers = itertools.count(1)


def folder() -> Path:
    """Where the sockets are. Raises OSError if it is not ours alone."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(runtime, "smartclient") if runtime else Path(tempfile.gettempdir(), f"smartclient-{os.getuid()}")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{path} is not a folder of this user's alone (mode 0700)")
    return path


def sockets() -> Iterator[Path]:
    """The sockets of clients that are there. Those of processes that have crashed are removed."""
    for path in sorted(folder().glob("*.sock")):
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(PATIENCE)
                one.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            pass  # busy, or gone in this moment
        else:
            yield path


class StatusSocket:
    """The socket of one client. status: called for each reader"""

    def __init__(self, status: Callable[[], Any]) -> None:
        self._status = status
        self._readers = threading.Semaphore(READERS)
        self._listener: socket.socket | None = None
        self.path: Path | None = None
        self._open()

    def close(self) -> None:
        if self.path is not None:
            self._end()
        self._listener = self.path = None

    def after_fork(self) -> None:
        """In a forked child: a socket of its own; the parent's stays."""
        if self._listener is not None:
            self._end.detach()
            self._listener.close()
            self._readers = threading.Semaphore(READERS)
            self._open()

    def _open(self) -> None:
        self._listener = self.path = None
        try:
            for _ in sockets():  # removes stale ones
                pass
            path = folder() / f"{os.getpid()}-{next(_numbers)}.sock"
            while path.exists():  # of a process with our number elsewhere (containers)
                path = path.with_name(f"{os.getpid()}-{next(_numbers)}.sock")
            if len(os.fsencode(path)) > LONGEST:
                raise OSError(f"{path} is longer than a socket's path may be ({LONGEST} bytes); set XDG_RUNTIME_DIR")
            listener, unready = socket.socket(socket.AF_UNIX), path.with_suffix(".new")
            try:
                # Under another name until it listens: whoever finds one that refuses takes it for a crash's.
                listener.bind(str(unready))
                unready.chmod(0o600)
                listener.listen(READERS)
                unready.rename(path)
                threading.Thread(target=_serve, args=(listener, weakref.ref(self)), name="smartclient-status",
                                 daemon=True).start()  # fmt: skip
            except BaseException:
                listener.close()
                raise
        except (OSError, RuntimeError, AttributeError) as error:  # the last where there are no Unix sockets, or users
            logger.warning("the status socket could not be opened: %s", error)
            return
        self._listener, self.path = listener, path
        # Also when the client is forgotten, and when the process ends.
        self._end = weakref.finalize(self, _close, listener, path, os.getpid())

    def answer(self, reader: socket.socket) -> None:
        """One reader's request, in a thread of its own."""
        try:
            with reader:
                reader.settimeout(PATIENCE)
                if not reader.recv(65536):
                    return  # somebody who only wanted to know whether we are here
                body = json.dumps(self._status().as_dict()).encode()
                reader.sendall(HEAD % len(body) + body)
        except OSError:
            pass  # it went away, or is too slow
        finally:
            self._readers.release()

    def take(self, reader: socket.socket) -> None:
        if not self._readers.acquire(blocking=False):
            reader.close()
            return
        try:
            threading.Thread(target=self.answer, args=(reader,), name="smartclient-status-reader", daemon=True).start()
        except RuntimeError:  # no more threads to be had
            self._readers.release()
            reader.close()


def _serve(listener: socket.socket, owner: weakref.ref[StatusSocket]) -> None:
    while True:
        try:
            reader, _ = listener.accept()
        except OSError:
            if listener.fileno() == -1 or owner() is None:  # closed
                return
            time.sleep(0.05)  # out of descriptors, say
            continue
        one = owner()
        if one is None:
            reader.close()
            return
        one.take(reader)
        del one


def _close(listener: socket.socket, path: Path, pid: int) -> None:
    if os.getpid() != pid:
        return
    path.unlink(missing_ok=True)
    try:
        listener.shutdown(socket.SHUT_RDWR)  # wakes its thread
    except OSError:
        pass
    listener.close()
