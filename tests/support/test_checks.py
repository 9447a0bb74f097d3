"""Every field of every public settings class: what is wrong is said at construction, with the class, the field, what
came and what was expected.
"""

from __future__ import annotations

import inspect
import logging
import math
import sys
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import pytest

import smartclient
from smartclient import (
    Adaptive,
    AdaptiveLimit,
    Balancer,
    Circuit,
    Client,
    Fallback,
    Filter,
    HealthCheck,
    Hedge,
    Instance,
    Limits,
    LoadAware,
    Maglev,
    OutlierDetection,
    PeakEwma,
    Policy,
    Retry,
    RetryBudget,
    RingHash,
    Routed,
    SlowStart,
    Static,
    Sticky,
    Subset,
    Throttle,
    call,
)
from smartclient.discovery import Consul, Discovery, Dns, Etcd, Eureka, File, Kubernetes, Nacos, Xds, ZooKeeper
from smartclient.discovery.options import Option
from smartclient.support.checks import Settings, shown

NAN, INF = float("nan"), float("inf")


def public() -> list[type[Any]]:
    """Found by import, so that a new one is tested, too."""
    named = (getattr(smartclient, name) for name in smartclient.__all__)
    found = [one for one in named if isinstance(one, type) and issubclass(one, Settings) and is_dataclass(one)]
    return [*sorted(found, key=lambda one: one.__name__), Instance]


def required(cls: type[Any]) -> dict[str, Any]:
    return {"host": "h"} if cls is Instance else {}


@pytest.mark.parametrize("cls", public(), ids=lambda cls: cls.__name__)
def test_no_field_takes_just_anything(cls: type[Any]) -> None:
    names = [one.name for one in fields(cls) if one.default is not MISSING or one.default_factory is not MISSING]
    cls(**required(cls))
    for name in names:
        for wrong in (object(), b"bytes", NAN, -1, [object()], {1: object()}):
            if name in ("retry", "hash_on") and callable(wrong):
                continue
            with pytest.raises((ValueError, TypeError), match=rf"{cls.__name__}\.{name}: expected .*, got ") as caught:
                cls(**{**required(cls), name: wrong})
            assert shown(wrong)[:20] in str(caught.value)


def test_there_are_all_of_them() -> None:
    some = {Adaptive, Policy, Retry, RetryBudget, Hedge, OutlierDetection, SlowStart, HealthCheck, Limits, Subset}
    others = {AdaptiveLimit, Throttle, Circuit, RingHash, Maglev, Sticky, LoadAware, PeakEwma}
    assert some | others <= set(public())


WRONG: list[tuple[type[Any], dict[str, Any]]] = [
    *((Policy, {"min_zone_size": value}) for value in ("6", 1.5, True)),
    *((Policy, {"client_zones": value}) for value in ({"a": "x"}, {"a": True}, {"a": NAN}, {"": 1}, ["a"])),
    *((Policy, {"tls_server_name": value}) for value in (7, "", "a b", "a..b", "https://a")),
    *((Policy, {name: value}) for name in ("require", "prefer") for value in ({"version": 2}, {2: "v"}, "v2", ["v2"])),
    *((Policy, {"host_header": value}) for value in ("instnace", "", None, 1)),
    *((Policy, {"balancer": value}) for value in ("round_robbin", "", 5, None, Adaptive)),
    *((Policy, {"retry": value}) for value in (3, True, Retry)),
    *(
        (Policy, {name: value})
        for name in ("deadline", "attempt_timeout")
        for value in (0, -1, True, NAN, INF, "1s", 1e10)
    ),
    *((Policy, {"deadline_header": value}) for value in ("", "a b", "a:b", 7)),
    *((Policy, {"idempotency_key": value}) for value in ("", 1, "a b", None)),
    *((Policy, {"panic_threshold": value}) for value in (50, True, "0.5", None)),
    *((Policy, {"zone": value}) for value in ("", 1)),
    (Policy, {"attempt_timeout": 3, "deadline": 2}),
    *((RetryBudget, {"ratio": value}) for value in (20, -0.1, True, "0.2", None)),
    *((RetryBudget, {"ttl": value}) for value in (0, None, INF)),
    *((Retry, {"statuses": value}) for value in (None, {5030}, {"503"}, 503, {True}, {99}, {503.0})),
    *((Retry, {"methods": value}) for value in (None, "GET", {""}, {1}, {"GE T"})),
    *((Retry, {"attempts": value}) for value in (0, True, 2.0, "3", None, 10**400)),
    *((Retry, {"wait": value}) for value in (None, 1.0, int)),
    *((Hedge, {"after": value}) for value in (0, -1, NAN, "p0", "p", "95", "p100", "p1e1", True, None)),
    *((Hedge, {"budget": value}) for value in (0, 5, True)),
    *((OutlierDetection, {"evidence": value}) for value in ("no", 0, None)),
    (OutlierDetection, {"base_ejection_time": 31}),
    *((OutlierDetection, {"max_ejected": value}) for value in (50, -0.1)),
    *((OutlierDetection, {"consecutive_5xx": value}) for value in (0, 1.5, True, "5")),
    *((SlowStart, {"min_weight": value}) for value in (0, 10)),
    *((HealthCheck, {"port": value}) for value in (0, True, 70000, "80")),
    *((HealthCheck, {"statuses": value}) for value in ("200", 200, {2000})),
    *((HealthCheck, {"unejects": value}) for value in ("no", 1)),
    *((Limits, {"queue": value}) for value in (1.5, -1, True, None)),
    *((Limits, {"max_in_flight": value}) for value in (0, 1.5, True, AdaptiveLimit)),
    *((AdaptiveLimit, {"initial": value}) for value in (2, 2000, 5.0)),
    *((Throttle, {"at_most": value}) for value in (1, 90)),
    *((Circuit, {"probe": value}) for value in (0, 4000)),
    *((Subset, {"seed": value}) for value in ("", -1, True, 1.5)),
    *((RingHash, {"points": value}) for value in (0, 1.5, 10**9)),
    *((RingHash, {"hash_on": value}) for value in ("heeder:X-User", "header:", "", 5)),
    *((Maglev, {"bound": value}) for value in (0.9, True, "1.25")),
    *((Sticky, {"inner": value}) for value in (Maglev(), "p2c", None, Adaptive)),
    *((LoadAware, {"expiry": value}) for value in (-1, NAN)),
    *((Adaptive, {"draws": value}) for value in (0, 5.0, 10**6)),
    *((Instance, {"priority": value}) for value in ("1", -1, True, 1.0)),
    *((Instance, {"id": value}) for value in (5, b"a")),
    *((Instance, {"zone": value}) for value in (5,)),
    *((Instance, {"healthy": value}) for value in ("yes", 1, None)),
    *((Instance, {"metadata": value}) for value in ({"a": 1}, {1: "a"}, "a", None)),
    *((Instance, {"weight": value}) for value in (True, "1", None)),
]


@pytest.mark.parametrize(
    ("cls", "wrong"), WRONG, ids=lambda value: getattr(value, "__name__", None) or repr(value)[:60]
)
def test_what_is_wrong_is_said_at_once(cls: type[Any], wrong: dict[str, Any]) -> None:
    name = next(iter(wrong))
    with pytest.raises((ValueError, TypeError), match=rf"{cls.__name__}\.{name}: expected .*, got "):
        cls(**{**required(cls), **wrong})


@pytest.mark.parametrize(
    "wrong",
    [{"deadline": 0}, {"deadline": True}, {"attempt_timeout": "1"}, {"deadline": 1, "attempt_timeout": 2},
     {"hash_key": 5}, {"retry": 3}, {"hedge": "p95"}, {"prefer": {"a": 1}}, {"require": "v2"}],
)  # fmt: skip
def test_options_of_a_call(wrong: dict[str, Any]) -> None:
    name = "attempt_timeout" if len(wrong) > 1 else next(iter(wrong))
    with pytest.raises((ValueError, TypeError), match=rf"call\({name}=…\): expected .*, got "):
        call(**wrong)


@pytest.mark.parametrize(
    ("make", "meant"),
    [
        (lambda: Policy("round_robbin"), "round_robin"),
        (lambda: Policy(host_header="instnace"), "instance"),
        (lambda: RingHash(hash_on="heeder:X-User"), "header"),
        (lambda: Instance.parse({"hots": "10.0.0.1"}), "host"),
        (lambda: Client("consull://127.0.0.1:8500"), "consul"),
        (lambda: Client("consul://127.0.0.1:8500?tga=prod"), "tag"),
    ],
)
def test_the_nearest_name_is_said(make: Any, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"did you mean '{meant}"):
        make()


@pytest.mark.parametrize(
    "source",
    [
        {"orders": ["10.0.0.1:80"], "payments": ["10.0.0.2:80"]},
        Static({"orders": ["10.0.0.1:80"], "payments": []}),
        Filter({"orders": ["10.0.0.1:80"], "payments": []}, lambda instance: True),
        Fallback({"orders": ["10.0.0.1:80"]}, {"payments": []}),
        Routed({"orders": ["10.0.0.1:80"], "payments": []}),
        "consul://127.0.0.1:1?services=orders,payments",
    ],
    ids=["mapping", "Static", "Filter", "Fallback", "Routed", "?services="],
)
def test_a_policy_for_a_service_that_there_cannot_be(source: Any, caplog: pytest.LogCaptureFixture) -> None:
    with Client(source, policies={"payment": Policy(), "Orders": Policy()}, trust_env=False):
        pass
    [said] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "policies['payment']: there is no such service; did you mean 'payments'?" in said.getMessage()


def test_open_sources_may_have_any_service(caplog: pytest.LogCaptureFixture) -> None:
    with Client("consul://127.0.0.1:1", policies={"payment": Policy()}, trust_env=False):
        pass
    assert not caplog.records


def test_a_balancer_of_the_users_needs_to_know_nothing_of_this() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class First(Balancer):
        limit: int = 3

        def picker(self, nodes: Any, rng: Any) -> Any:
            return lambda call: nodes[0]

    assert Policy(First(5)).balancer == First(5)


def test_values_of_any_size_are_cut() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    assert len(shown("x" * 10**6)) < 250
    assert shown(Broken()) == "a Broken"
    with pytest.raises(ValueError, match="got ") as caught:
        Policy(host_header="x" * 10**6)
    assert len(str(caught.value)) < 400
    assert math.isnan(NAN)
    assert Discovery.names is not None


# ---- sources ----

ELSEWHERE = {
    "address",
    "server",
    "hosts",
    "path",
    "verify",
    "cert",
    "tls",
    "token",
    "password",
}  # not just kinds of values
REQUIRED = {"File": {"path": "services.json"}, "Kubernetes": {"server": "http://h:1"}}
SOURCES = [Consul, Dns, Etcd, Eureka, File, Kubernetes, Nacos, Xds, ZooKeeper]


def options_of(source: type[Any]) -> dict[str, Option]:
    options: dict[str, Option] = sys.modules[source.__module__].OPTIONS  # type: ignore[attr-defined]
    return options


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_no_option_of_a_source_takes_just_anything(source: type[Any]) -> None:
    given = REQUIRED.get(source.__name__, {})
    source(**given)
    for name in inspect.signature(source).parameters.keys() & options_of(source).keys() - ELSEWHERE:
        for wrong in (object(), 1j, [object()]):
            with pytest.raises((ValueError, TypeError), match=rf"{source.__name__}\.{name}: expected .*, got "):
                source(**{**given, name: wrong})


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_options_of_urls_are_keywords(source: type[Any]) -> None:
    assert options_of(source).keys() <= inspect.signature(source).parameters.keys()


@pytest.mark.parametrize(
    ("source", "keywords"),
    [
        *((Consul, {name: value}) for name in ("wait", "timeout") for value in (0, -1, 601, NAN, True)),
        *((Consul, {"grace": value}) for value in (-1, NAN, "1")),
        *((Consul, {"connections": value}) for value in (1, 2.0, True)),
        (Consul, {"tag": [1]}),
        (Consul, {"stale": "no"}),
        (Etcd, {"timeout": None}),
        (Etcd, {"most_bytes": 0}),
        (Dns, {"port": 65_536}),
        (Nacos, {"api": "v4"}),
        (Kubernetes, {"server": "http://h:1", "timeout": 0}),
        (Xds, {"absent_after": 90_000}),
    ],
)
def test_options_out_of_range(source: type[Any], keywords: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"{source.__name__}\.\w+: expected .*, got "):
        source(**keywords)
