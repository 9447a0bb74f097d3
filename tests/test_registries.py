"""What registries say, read: no payload breaks a parser, and no bad instance is passed on."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from smartclient import Instance
from smartclient.discovery.zookeeper import value_of as zookeeper_value

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


def fields(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), JSON)


def harmless(entry: Any) -> None:
    """What a source yields is an instance, or is refused."""
    try:
        instance = Instance.parse(entry)
    except (ValueError, TypeError):
        return
    assert instance.port is None or 1 <= instance.port <= 65535
    assert not set(instance.host) & set(" /\r\n")
    assert 0 <= instance.weight <= 1e6


CURATOR = fields("name", "id", "address", "port", "sslPort", "payload", "enabled", "serviceType")


@given(st.binary() | (JSON | CURATOR).map(lambda said: json.dumps(said).encode()))
def test_no_value_of_zookeeper_breaks_anything(data: bytes) -> None:
    value = zookeeper_value("i-1", data)
    if value is not None:
        harmless(value)
