from __future__ import annotations

import copy
import pickle
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartclient import Instance
from smartclient.instance import is_ip


@pytest.mark.parametrize(
    ("text", "host", "port", "scheme"),
    [
        ("10.0.0.1:8080", "10.0.0.1", 8080, "http"),
        ("http://10.0.0.1", "10.0.0.1", None, "http"),
        ("https://a.example:8443", "a.example", 8443, "https"),
        ("HTTPS://a.example/", "a.example", None, "https"),
        ("[::1]:80", "::1", 80, "http"),
        ("[::1]", "::1", None, "http"),
        ("fe80::1", "fe80::1", None, "http"),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80, "http"),
        ("http://[fe80::1%eth0]:80", "fe80::1%eth0", 80, "http"),
        ("http://[fe80::1%25eth0]:80", "fe80::1%eth0", 80, "http"),
        ("http://[fe80::1%25]", "fe80::1%25", None, "http"),
        ("name_with-odd.parts", "name_with-odd.parts", None, "http"),
    ],
)
def test_addresses(text: str, host: str, port: int | None, scheme: str) -> None:
    instance = Instance.parse(text)
    assert (instance.host, instance.port, instance.scheme) == (host, port, scheme)
    assert Instance.parse(str(instance)) == instance


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        ":80",
        "a b",
        "a\r\nb",
        "a/b",
        "h:0",
        "h:70000",
        "h:x",
        "h:-1",
        "[::1",
        "[::1]x",
        "ftp://h",
        "h:80:80:x",
        "user@h",
    ],
)
def test_no_addresses(wrong: str) -> None:
    with pytest.raises(ValueError):
        Instance.parse(wrong)


@pytest.mark.parametrize(
    "fields",
    [{"port": 0}, {"port": True}, {"port": "80"}, {"weight": -1}, {"weight": float("nan")},
     {"weight": float("inf")}, {"weight": 1e300}, {"weight": 10**400},
     {"scheme": "ws"}, {"metadata": 3}, {"host": None}],
)  # fmt: skip
def test_absurd_fields(fields: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Instance(**{"host": "h", **fields})


def test_metadata_is_copied_and_frozen() -> None:
    given_ = {"version": "v2"}
    instance = Instance("h", 1, metadata=given_)
    given_["version"] = "v3"
    assert instance.metadata["version"] == "v2"
    with pytest.raises(TypeError):
        instance.metadata["version"] = "v4"  # type: ignore[index]
    assert pickle.loads(pickle.dumps(instance)) == instance
    assert hash(instance) == hash(Instance("h", 1))


@given(st.text(max_size=30))
def test_parsing_raises_nothing_else(text: str) -> None:
    try:
        instance = Instance.parse(text)
    except ValueError:
        return
    assert instance.port is None or 1 <= instance.port <= 65535
    assert not set(instance.host) & set(" \r\n\t/@")
    assert Instance.parse(str(instance)) == instance


@given(st.ip_addresses())
def test_ip_literals(address: Any) -> None:
    assert is_ip(str(address))
    assert not is_ip("orders")


def test_it_is_plain_data() -> None:
    instance = Instance("10.0.0.1", 80, metadata={"version": "v2"}, zone="a")
    assert asdict(instance)["metadata"] == {"version": "v2"}
    assert copy.deepcopy(instance) == pickle.loads(pickle.dumps(instance)) == instance
    metadata: Any = instance.metadata
    for change in (metadata.update, metadata.pop, metadata.clear, metadata.setdefault, metadata.__ior__):
        with pytest.raises(TypeError, match="read-only"):
            change({})


@pytest.mark.parametrize("host", ["[::1]", "fe80::1%eth0\r\nX: y", "fe80::1%a b", "::1]", "fe80::1%"])
def test_hosts_that_would_not_stay_in_their_place(host: str) -> None:
    with pytest.raises(ValueError, match="host"):
        Instance(host)
    assert Instance("fe80::1%eth0").host == "fe80::1%eth0"
