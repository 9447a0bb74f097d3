"""Instances found in Consul: registers three with an agent, calls them, kills one, and no call fails.

    python examples/consul_registry.py [http://127.0.0.1:8500]

Needs a Consul agent: `consul agent -dev`.
"""

import logging
import sys
import time
from collections import Counter
from contextlib import ExitStack

import httpx

from smartclient import Client, Consul, report
from smartclient.testing.demo_server import DemoServer

logging.basicConfig(stream=sys.stdout, format="%(name)s: %(message)s")  # that the killed one is ejected, say
agent = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8500"
SERVICE = "smartclient-example"


def register(server: DemoServer) -> None:
    entry = {"Name": SERVICE, "ID": f"{SERVICE}-{server.port}", "Address": "127.0.0.1", "Port": server.port}
    httpx.put(f"{agent}/v1/agent/service/register", json=entry, trust_env=False).raise_for_status()


def deregister(server: DemoServer) -> None:
    httpx.put(f"{agent}/v1/agent/service/deregister/{SERVICE}-{server.port}", trust_env=False)


with ExitStack() as stack:
    servers = [stack.enter_context(DemoServer()) for _ in range(3)]
    for server in servers:
        register(server)
        stack.callback(deregister, server)
    with Client(Consul(agent), trust_env=False) as client:
        answered: Counter[int] = Counter()
        for turn in range(60):
            if turn == 20:
                print(f"killing {servers[0].address}, Consul does not know yet")
                servers[0].kill()
            if turn == 40:
                print("now it is deregistered")
                deregister(servers[0])
            response = client.get(f"http://{SERVICE}/")
            response.raise_for_status()
            story = report(response)
            assert story is not None
            answered[story.attempts[-1].instance.port or 0] += 1
            time.sleep(0.01)
        print("60 calls, none failed:", dict(answered))
