"""Testing code that uses smartclient: httpx's MockTransport, respx, and smartclient's own kit.

python examples/testing_your_service.py        (or: pytest examples/testing_your_service.py)
"""

import httpx
import respx

from smartclient import BalancedTransport, Client, Policy, Retry
from smartclient.testing import FAILING, OK, Fleet, VirtualClock


def total(client: httpx.Client) -> int:
    """The code under test."""
    return sum(item["price"] for item in client.get("http://orders/items").json())


def test_with_mock_transport() -> None:
    """An explicit transport carries balanced calls, too; it sees the instance that was picked."""

    def handler(request: httpx.Request) -> httpx.Response:
        assert request.url.host in ("10.0.0.1", "10.0.0.2")
        return httpx.Response(200, json=[{"price": 2}, {"price": 3}])

    with Client({"orders": ["10.0.0.1:80", "10.0.0.2:80"]}, transport=httpx.MockTransport(handler)) as client:
        assert total(client) == 5


@respx.mock
def test_with_respx() -> None:
    """respx sees the logical URL."""
    respx.get("http://orders/items").respond(json=[{"price": 7}])
    with Client({"orders": ["10.0.0.1:80"]}) as client:
        assert total(client) == 7


def test_retries_without_waiting() -> None:
    """A virtual clock: waits are taken, no time passes."""
    clock = VirtualClock()
    with Fleet(1) as fleet:
        fleet[0].behave(FAILING, FAILING, OK)
        policy = Policy(retry=Retry(attempts=3, wait=lambda state: 60.0))
        transport = BalancedTransport({"orders": fleet.addresses}, policy=policy, clock=clock, sleep=clock.sleep)
        with httpx.Client(transport=transport) as client:
            assert client.get("http://orders/").status_code == 200
    assert clock.slept == [60.0, 60.0]


if __name__ == "__main__":
    test_with_mock_transport()
    test_with_respx()
    test_retries_without_waiting()
    print("all three pass")
