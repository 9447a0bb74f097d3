"""IP hash: an end user stays on a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..node import Node
from ..support.checks import setting
from .hash_on import HashOn, hash_key
from .hashed import Hashed, Table
from .maglev import Slots


@dataclass(frozen=True)
class IpHash(Hashed):
    """Calls for the same end user (the first address of Forwarded or X-Forwarded-For) go to the same node.

    Uses a Maglev table. nginx's ip_hash (address modulo servers) moves nearly all users when a server leaves.
    """

    hash_on: HashOn = setting("ip", hash_key)

    name = "ip_hash"

    def table(self, nodes: Sequence[Node]) -> Table:
        return Slots(nodes)
