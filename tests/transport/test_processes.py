"""A client in the processes of others: gunicorn's forks, many threads, loop after loop, an interpreter that ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from driving import in_child
from inside import balanced_of, rng_of, service_of, shared_of

from smartclient import AsyncClient, BalancedTransport, Client, Hedge, Policy, report
from smartclient.testing import SILENT, Behaviour, Fleet

URL = "http://orders/v1/items"

APP = """
    import os
    import smartclient

    def resolve(service):
        return {addresses!r}

    client = smartclient.Client(smartclient.Function(resolve, interval=0.2), trust_env=False)
    assert client.get("http://orders/warm").status_code == 200     # preloaded: connections, threads, a node's history

    def app(environ, start_response):
        codes = [client.get("http://orders/").status_code for _ in range(3)]
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{{os.getpid()}} {{codes}}".encode()]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_gunicorn_preloads_and_forks_four(tmp_path: Path) -> None:
    with Fleet(3) as fleet:
        (tmp_path / "shop.py").write_text(textwrap.dedent(APP.format(addresses=fleet.addresses)))
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--preload", "-w", "4", "-b", "127.0.0.1:0", "shop:app"],
            stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        )  # fmt: skip
        said: list[str] = []
        assert server.stderr is not None
        try:
            for line in server.stderr:
                said.append(line)
                if "Listening at" in line:
                    address = line.split("Listening at: ")[1].split(" ")[0]
                if sum("Booting worker" in one for one in said) == 4:
                    break
            else:
                pytest.fail("".join(said))
            answers = Counter()
            for _ in range(60):  # each on a connection of its own, so that all workers serve some
                pid, _, codes = httpx.get(address, trust_env=False).text.partition(" ")
                assert codes == "[200, 200, 200]"
                answers[pid] += 1
            assert len(answers) >= 2
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
            server.stderr.close()
        # Each worker has connections of its own, or some would have got another's answers; all went with them.
        until = time.monotonic() + 5
        while fleet.open and time.monotonic() < until:
            time.sleep(0.02)
        assert fleet.open == 0
        assert len(fleet.received) == 1 + 3 * 60


def test_32_threads_on_one_client(fleet: Any) -> None:
    servers = fleet(4)
    policy = Policy(hedge=Hedge(0.05, budget=0.2))
    with Client({"orders": servers.addresses}, policy=policy) as client:
        failed: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for turn in range(15):
                    response = client.post(URL, content=f"{number}/{turn}") if turn % 3 else client.get(URL)
                    assert response.status_code == 200
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        posts = Counter(request.body for request in servers.received if request.method == "POST")
        assert len(posts) == 32 * 10
        assert set(posts.values()) == {1}


def test_loop_after_loop_and_then_trio(fleet: Any) -> None:
    """The connections of a loop that ended are closed (asyncio has nothing to complain of, as it does with httpx)."""
    import asyncio
    import gc

    import trio

    servers = fleet(2)
    client = AsyncClient({"orders": servers.addresses}, policy=Policy(hedge=Hedge(1.0)), trust_env=False)

    async def some() -> None:
        for _ in range(4):
            assert (await client.get(URL)).status_code == 200

    async def last() -> None:
        await some()
        transport: Any = balanced_of(client)
        assert all(len(shared_of(node)) <= 1 for node in service_of(transport).nodes)
        await client.aclose()

    for _ in range(3):
        asyncio.run(some())
    trio.run(last)
    gc.collect()


EXITING = """
    import asyncio, sys, threading, time
    import smartclient
    from smartclient import Hedge, Policy, call

    policy = Policy(deadline=1.0, hedge=Hedge(0.05, budget=1.0) if "hedge" in sys.argv else None)

    def sync():
        client = smartclient.Client({addresses!r}, policy=policy, trust_env=False)
        threading.Thread(target=lambda: client.get("http://orders/"), daemon="daemon" in sys.argv).start()
        time.sleep(0.2)

    async def aio():
        client = smartclient.AsyncClient({addresses!r}, policy=policy, trust_env=False)
        task = asyncio.ensure_future(client.get("http://orders/"))
        await asyncio.sleep(0.2)

    sync() if "sync" in sys.argv else asyncio.run(aio())
    print("leaving", flush=True)
"""


@pytest.mark.parametrize("how", ["sync daemon", "sync daemon hedge", "async", "async hedge", "sync", "sync hedge"])
def test_the_interpreter_ends_with_calls_running(how: str, tmp_path: Path) -> None:
    """No hang and no crash: whoever is not a daemon is waited for, as Python does, and no longer than its deadline."""
    with Fleet(3, SILENT) as fleet:
        script = tmp_path / "exiting.py"
        script.write_text(textwrap.dedent(EXITING.format(addresses={"orders": fleet.addresses})))
        began = time.monotonic()
        done = subprocess.run([sys.executable, str(script), *how.split()], capture_output=True, text=True, timeout=30)
        assert done.stdout == "leaving\n"
        assert done.returncode == 0, done.stderr
        assert "Fatal" not in done.stderr
        assert "never retrieved" not in done.stderr
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("hedge", [None, Hedge(0.05, budget=1.0)], ids=["plain", "hedged"])
def test_closing_a_client_ends_the_calls_of_other_threads(fleet: Any, hedge: Hedge | None) -> None:
    servers = fleet(3, Behaviour(delay=5))
    client = Client({"orders": servers.addresses}, policy=Policy(hedge=hedge), timeout=30)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            client.get(URL)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.3)
    client.close()
    thread.join(4)
    assert not thread.is_alive()
    assert len(raised) == 1
    assert isinstance(raised[0], httpx.TransportError)


# ---- chance ----


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("balancer", ["round_robin", "random", "p2c", "weighted_round_robin", "adaptive", "peak_ewma"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_children_of_one_parent_do_not_walk_in_step(balancer: str, warm: bool, tmp_path: Path) -> None:
    """Five children, round robin over ten nodes: the same node five times. A Random made before a fork is the same in
    every child.
    """
    addresses = [f"10.0.0.{n}:80" for n in range(50)]
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    hosts: list[str] = []
    with Client({"orders": addresses}, policy=Policy(balancer), transport=transport, trust_env=False) as client:
        if warm:
            client.get(URL)
        for child in range(12):
            log = tmp_path / str(child)
            in_child(lambda log=log: log.write_text(report(client.get(URL)).attempts[0].instance.host))  # type: ignore[misc,union-attr]
            hosts.append(log.read_text())
    assert len(set(hosts)) >= 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_generator_of_the_users_is_left_alone(tmp_path: Path) -> None:
    """Who gives one wants calls that can be repeated."""
    rng = random.Random(1)
    transport = BalancedTransport({"orders": ["10.0.0.1:80"]}, rng=rng)
    state = rng.getstate()
    in_child(lambda: (tmp_path / "same").write_text(str(rng_of(transport).getstate() == state)))
    assert (tmp_path / "same").read_text() == "True"
    transport.close()


# ---- gevent ----

GEVENT = """
    import sys
    early = sys.argv[1] == "early"
    if early:
        import gevent.monkey
        gevent.monkey.patch_all()
    import smartclient
    from smartclient import Client, Hedge, Policy  # what is imported when it is used
    if not early:
        import gevent.monkey
        gevent.monkey.patch_all()
    import gevent
    from gevent.pywsgi import WSGIServer

    def app(environ, start_response):
        gevent.sleep(0.05)
        start_response("200 OK", [])
        return [b"ok"]

    servers = [WSGIServer(("127.0.0.1", 0), app, log=None) for _ in range(2)]
    for server in servers:
        server.start()
    addresses = [f"127.0.0.1:{server.server_port}" for server in servers]
    policy = Policy(hedge=Hedge(0.01, budget=1.0))
    with smartclient.Client({"orders": addresses}, policy=policy, trust_env=False) as client:
        calls = [gevent.spawn(client.get, "http://orders/") for _ in range(5)]
        gevent.joinall(calls, timeout=10)
        print([call.value.status_code if call.successful() else repr(call.exception) for call in calls])
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_gevent(when: str) -> None:
    """Patched first it works; patched late a hedged call hung for ever."""
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(GEVENT), when], capture_output=True, text=True, timeout=60
    )
    if when == "early":
        assert done.stdout.strip() == "[200, 200, 200, 200, 200]", done.stderr
    else:
        assert done.stdout.count("call gevent.monkey.patch_all() first") == 5, done.stderr
