"""The async client under trio (asyncio works the same), with a policy per service and an observer.

python examples/async_trio.py
"""

import trio
from tenacity import wait_fixed

from smartclient import AsyncClient, NodeEjected, OutlierDetection, Policy, Retry, call, report
from smartclient.testing import FAILING, Fleet

PAYMENTS = Policy(
    balancer="least_request",
    retry=Retry(attempts=2, wait=wait_fixed(0.01)),
    outlier=OutlierDetection(consecutive_5xx=3),
    deadline=2.0,
)


async def main(fleet: Fleet) -> None:
    def tell(event: object) -> None:
        if isinstance(event, NodeEjected):
            print(f"ejected: {event.instance}, {event.reason}")

    async with AsyncClient({"payments": fleet.addresses}, policies={"payments": PAYMENTS}, observers=[tell]) as client:

        async def one() -> None:
            response = await client.get("http://payments/", extensions=call(attempt_timeout=0.5))
            print(response.status_code, report(response))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one)


with Fleet(3) as servers:
    servers[0].behave(FAILING)
    trio.run(main, servers)
