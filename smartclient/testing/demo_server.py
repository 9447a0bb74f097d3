"""A small HTTP server in a process of its own, for the demo, the examples and tests that kill one.

    python -m smartclient.testing.demo_server [--port 0] [--delay 0.3] [--failing 0.5]

Prints its port, serves until its standard input ends (so it never outlives who started it).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import threading

REQUEST_AT_MOST = 1 << 20


class DemoServer:
    """Such a process. A context manager."""

    def __init__(self, *, port: int = 0, delay: float = 0.0, failing: float = 0.0) -> None:
        arguments = ["--port", str(port), "--delay", str(delay), "--failing", str(failing)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "smartclient.testing.demo_server", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError(f"no server could be started on port {port}")
        self.port: int = int(line)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """SIGKILL: its connections are reset, new ones refused."""
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: it accepts (the kernel does) and says nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> DemoServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float, failing: float) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = min(int(value), REQUEST_AT_MOST)
            await reader.readexactly(length)
            if delay:
                await asyncio.sleep(delay)
            failed = random.random() < failing
            body = b'{"pid": %d}' % os.getpid()
            status = b"503 Service Unavailable" if failed else b"200 OK"
            writer.write(
                b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
                + body
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
        pass
    finally:
        writer.close()


async def _serve(port: int, delay: float, failing: float) -> None:
    server = await asyncio.start_server(lambda r, w: _answer(r, w, delay, failing), "127.0.0.1", port, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _until_input_ends() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m smartclient.testing.demo_server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--failing", type=float, default=0.0, help="share of 503")
    options = parser.parse_args()
    threading.Thread(target=_until_input_ends, daemon=True).start()
    try:
        asyncio.run(_serve(options.port, options.delay, options.failing))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
