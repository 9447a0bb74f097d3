"""Subset: a client of a huge fleet uses few of its instances, so that connections and health knowledge stay bounded.

gRPC's random subsetting (A68) takes the `size` instances with the highest hash of (client, instance). The load of an
instance is then binomial: with 1,000 clients, 500 instances and 20 each, the busiest has 1.5 × the mean. No choice
without knowledge of the other clients does better. Where clients are *numbered* (replicas of a StatefulSet are), it
can be done evenly. The instances stand in a row in the order of their hashes, at equal distances; client number i
looks from the point that the van der Corput sequence gives i, which is evenly spread after any number of clients, and
takes the next `size`. (Google calls the two ideas low-discrepancy subsetting: "Reinventing Backend Subsetting at
Google",
2022.) Every 64 clients the order is another one, so that clients that share one instance do not share all.

A change of one instance moves each later instance by one place, and the client's own point by less than one: so at most
one of its instances is swapped.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass

from ..instance import Instance
from ..support.checks import Check, Settings, count, either, optional, setting, text, wrong
from ..support.hashing import hash_of

Metadata = frozenset[tuple[str, str]]
ROUND = 64  # clients that see the ring in the same order

client_name: Check = optional(either("a whole number from 0 up, a name", count(0), text))


@dataclass(frozen=True)
class Subset(Settings):
    """Use only some instances of a service.

    size:    how many, of each priority, and of those with each metadata that calls require or prefer
    client:  who this client is: its number (0, 1, …), or a name that ends in one ("web-7"), and the load is spread
             evenly over the instances; any other name, and it is spread as by chance. None: the environment's
             SMARTCLIENT_ID, else this host's name
    seed:    the former name of `client`
    """

    size: int = setting(20, count())
    _: KW_ONLY
    client: int | str | None = setting(None, client_name)
    seed: int | str | None = setting(None, client_name)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed is not None and self.client is not None:
            raise wrong("Subset.seed", "nothing beside client, whose former name it is", self.seed)

    def of_all(self, instances: Sequence[Instance], wanted: Iterable[Metadata]) -> list[Instance]:
        """This client's part: a subset of the instances that take calls, for each priority, and for each metadata that
        calls ask for. So there are instances to choose from for each requirement and priority.
        """
        chosen: dict[Instance, None] = {}
        for metadata in wanted:
            fitting = [instance for instance in instances if metadata <= instance.metadata.items()]
            taking = [instance for instance in fitting if instance.weight > 0 and instance.healthy] or fitting
            levels: dict[int, list[Instance]] = {}
            for instance in taking:
                levels.setdefault(instance.priority, []).append(instance)
            for level in levels.values():
                chosen.update(dict.fromkeys(self.of(level)))
        return list(chosen)

    def of(self, instances: Sequence[Instance]) -> list[Instance]:
        """This client's part of them, whatever their order."""
        count = len(instances)
        if count <= self.size:
            return list(instances)
        group, number = _client(self.seed if self.client is None else self.client)
        turn, place = divmod(number, ROUND)
        order = sorted(instances, key=lambda instance: (hash_of(f"{group}/{turn}/{instance}"), str(instance)))
        # Each round starts elsewhere, or all would leave the same instances out where the sizes do not divide. Nobody
        # looks over the end: with a ring a change before the end would swap two.
        point = (_radical_inverse(place) + _radical_inverse(turn) / ROUND) * ROUND / (ROUND - 1)
        start = int(min(point, 1.0) * (count - self.size) + 0.5)
        return order[start : start + self.size]


def _client(identity: int | str | None) -> tuple[str, int]:
    """The group that numbers its clients, and the client's number in it."""
    if isinstance(identity, int):
        return "", abs(identity)
    name = identity or os.environ.get("SMARTCLIENT_ID") or socket.gethostname()
    match = re.fullmatch(r"(?:(.*)[-_.])?(\d{1,9})", name)
    return (match[1] or "", int(match[2])) if match else ("", hash_of(name))


def _radical_inverse(number: int) -> float:
    """van der Corput: the binary digits of a number, mirrored at the point. 0, ½, ¼, ¾, ⅛, …"""
    value, part = 0.0, 0.5
    while number:
        if number & 1:
            value += part
        number >>= 1
        part /= 2
    return value
