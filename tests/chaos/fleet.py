"""The fleet under chaos: six server processes, and what is done to them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIZE = 6


class Instance:
    """A server process that can be killed, stopped, and told how to behave."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self.log = port, log
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), str(self.port), str(self.log)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "listening\n"

    def behave(self, **orders: Any) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(orders) + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        assert self.process is not None
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Fleet:
    """Some instances. ports: on loopback"""

    def __init__(self, home: Path, size: int = SIZE) -> None:
        self.log = home / "posts"
        self.log.touch()
        self.ports = free_ports(size)
        self.instances = [Instance(port, self.log) for port in self.ports]

    def duplicates(self) -> int:
        """POSTs that reached servers more than once, counted since the last time."""
        seen = Counter(self.log.read_text().split())
        os.truncate(self.log, 0)
        return sum(times - 1 for times in seen.values())

    def close(self) -> None:
        for instance in self.instances:
            instance.signal(signal.SIGCONT)
            instance.kill()


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


# ---- faults: each a function of the fleet and of `until`, which sleeps to a moment of the row ----

Until = Callable[[float], None]


def none(fleet: Fleet, until: Until) -> None:
    until(5.0)


def kill(fleet: Fleet, until: Until) -> None:
    """One is killed, and started again after 3 s."""
    fleet.instances[0].kill()
    until(3.0)
    fleet.instances[0].start()
    until(5.0)


def stop(fleet: Fleet, until: Until) -> None:
    """One is stopped (SIGSTOP) for 5 s: connections are accepted by its kernel, and nothing is answered."""
    fleet.instances[0].signal(signal.SIGSTOP)
    until(5.0)
    fleet.instances[0].signal(signal.SIGCONT)


def refuse(fleet: Fleet, until: Until) -> None:
    """Two reset what they have and refuse connections for 4 s."""
    for instance in fleet.instances[:2]:
        instance.behave(listening=False)
    until(4.0)
    for instance in fleet.instances[:2]:
        instance.behave()
    until(5.0)


def reset(fleet: Fleet, until: Until) -> None:
    """One resets in the middle of every body."""
    fleet.instances[0].behave(reset=True)
    until(5.0)
    fleet.instances[0].behave()


def burst(fleet: Fleet, until: Until) -> None:
    """Half of them answer 503 for half a second, again and again."""
    for turn in range(5):
        for instance in fleet.instances[: SIZE // 2]:
            instance.behave(errors=1.0)
        until(turn + 0.5)
        for instance in fleet.instances[: SIZE // 2]:
            instance.behave()
        until(turn + 1.0)


def errors(fleet: Fleet, until: Until) -> None:
    """Half of them answer 503 to every tenth request."""
    for instance in fleet.instances[: SIZE // 2]:
        instance.behave(errors=0.1)
    until(5.0)
    for instance in fleet.instances[: SIZE // 2]:
        instance.behave()


def slow(fleet: Fleet, until: Until) -> None:
    """One answers after a second."""
    fleet.instances[0].behave(delay=1.0)
    until(5.0)
    fleet.instances[0].behave()


def drip(fleet: Fleet, until: Until) -> None:
    """One sends its bodies over a second."""
    fleet.instances[0].behave(drip=1.0)
    until(5.0)
    fleet.instances[0].behave()


def rolling(fleet: Fleet, until: Until) -> None:
    """One after the other drains, ends and starts anew."""
    for number, instance in enumerate(fleet.instances):
        until(number * 0.8)
        instance.behave(draining=True)
        instance.wait()
        instance.start()
    until(5.0)


def half(fleet: Fleet, until: Until) -> None:
    """Half of them are killed for 4 s."""
    for instance in fleet.instances[: SIZE // 2]:
        instance.kill()
    until(4.0)
    for instance in fleet.instances[: SIZE // 2]:
        instance.start()
    until(5.0)


def blind(fleet: Fleet, until: Until) -> None:
    """Discovery is down (`BLIND` is there), and two are killed meanwhile. Sidecars have static lists."""
    marker = fleet.log.parent / "blind"
    marker.touch()
    for instance in fleet.instances[:2]:
        instance.kill()
    until(4.0)
    for instance in fleet.instances[:2]:
        instance.start()
    until(5.0)
    marker.unlink()


FAULTS: dict[str, Callable[[Fleet, Until], None]] = {
    fault.__name__: fault
    for fault in (none, kill, stop, refuse, reset, burst, errors, slow, drip, rolling, blind, half)
}


def inject(fleet: Fleet, name: str, began: float) -> threading.Thread:
    """Run a fault in a thread, its clock beginning then."""

    def until(seconds: float) -> None:
        time.sleep(max(0.0, began + seconds - time.monotonic()))

    def run() -> None:
        until(0.0)
        FAULTS[name](fleet, until)

    thread = threading.Thread(target=run)
    thread.start()
    return thread
