"""Change one import, name your instances. Runs as it is: the three servers are its own.

python examples/quickstart.py
"""

from smartclient import Client, report
from smartclient.testing import FAILING, Fleet

with Fleet(3) as fleet:
    fleet[0].behave(FAILING)  # one of three answers 503
    with Client({"orders": fleet.addresses}) as client:
        for _ in range(5):
            response = client.get("http://orders/v1/items")
            print(response.status_code, report(response))
