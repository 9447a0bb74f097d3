"""A discovery source of your own: one method. Here, a directory with a file of addresses per service.

python examples/custom_discovery.py
"""

import tempfile
from pathlib import Path

from smartclient import Client, PollingDiscovery, report
from smartclient.testing import Fleet


class Directory(PollingDiscovery):
    """`<directory>/<service>` holds an address a line; it is read again every second."""

    interval = 1.0

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)

    def resolve(self, service: str) -> list[str]:
        return (self.directory / service).read_text().split()


with tempfile.TemporaryDirectory() as directory, Fleet(2) as fleet:
    Path(directory, "orders").write_text("\n".join(fleet.addresses))
    with Client(Directory(directory)) as client:
        for _ in range(4):
            print(report(client.get("http://orders/")))
