"""Configuration files: what is read, and each thing that is wrong said in one line, with file, line and path."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from driving import in_child
from hypothesis import given
from hypothesis import strategies as st

import smartclient
from smartclient import ConfigError, Policy, load_config
from smartclient.cli.main import main
from smartclient.config import schema
from smartclient.config.json_reader import read_json
from smartclient.config.reading import READERS, said_in
from smartclient.config.said import BadFile, Said, merged
from smartclient.config.toml_reader import read_toml
from smartclient.config.yaml_reader import read_yaml

ROOT = Path(__file__).parents[2]
WHOLE = """
version: 1
discovery: consul://127.0.0.1:8500?stale=true
defaults: {deadline: 5s, attempt_timeout: 1s}
services:
  "*.eu": {zone: eu-1a}
  payments:
    balancer: {name: maglev, hash_on: "header:X-User"}
    retry: {attempts: 4, wait: {exponential: {multiplier: 25ms, max: 1s}}, statuses: [503], budget: {ratio: 0.1}}
    outlier: {consecutive_5xx: 7}
    hedge: null
"""


def lines(tmp_path: Path, text: str | bytes, name: str = "smartclient.yaml", **environment: str) -> list[str]:
    """What is wrong with a file, its folder left out."""
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environment=environment)
    return [one.replace(f"{path}", "F") for one in caught.value.problems]


def of_service(settings: str) -> str:
    return f"version: 1\nservices:\n  payments: {{{settings}}}\n"


AT = "F:3: services.payments."
TIME = "a time: seconds, or like 25ms, 5s, 2m"
# A file, and what is said of it.
WRONG: dict[str, tuple[str | bytes, list[str]]] = {
    "empty": ("", ["F: is empty"]),
    "blank": ("  \n\n", ["F: is empty"]),
    "only a comment": ("# nothing\n", ["F:1: expected a mapping with `version: 1`"]),
    "a list": ("- version: 1\n", ["F:1: expected a mapping with `version: 1`"]),
    "a string": ("hello\n", ["F:1: expected a mapping with `version: 1`"]),
    "no version": ("services: {}\n", ["F:1: version is missing: write `version: 1`"]),
    "another version": ("version: 2\n", ["F:1: version: expected 1, got 2"]),
    "a version in words": ("version: one\n", ["F:1: version: expected 1, got 'one'"]),
    "true as version": ("version: true\n", ["F:1: version: expected 1, got True"]),
    "a misspelt key": ("version: 1\nservice: {}\n", ["F:2: service: unknown; did you mean services?"]),
    "an unknown key": ("version: 1\nxyz: {}\n", ["F:2: xyz: unknown"]),
    "services as a list": (
        "version: 1\nservices: [payments]\n", ["F:2: services: expected names of services with their settings"]),
    "a service as a string": (
        "version: 1\nservices: {payments: fast}\n", ["F:2: services.payments: expected settings, got 'fast'"]),
    "defaults as a list": ("version: 1\ndefaults: [1]\n", ["F:2: defaults: expected settings, got [1]"]),
    "a service twice, by case": (
        "version: 1\nservices:\n  Pay: {}\n  pay: {}\n",
        ["F:4: services.pay: stands twice: names of services have no upper case"]),
    "a misspelt field": (of_service("outlier: {base_ejection_tme: 3}"),
                         [f"{AT}outlier.base_ejection_tme: unknown; did you mean base_ejection_time?"]),
    "a field of another": (of_service("slow_start: {hash_on: key}"),
                           [f"{AT}slow_start.hash_on: unknown; known are aggression, min_weight, window"]),
    "a negative deadline": (of_service("deadline: -1"), [f"{AT}deadline: expected seconds > 0 or null, got -1"]),
    "a deadline of zero": (of_service("deadline: 0s"), [f"{AT}deadline: expected seconds > 0 or null, got 0.0"]),
    "a deadline in words": (of_service("deadline: soon"), [f"{AT}deadline: expected {TIME}, got 'soon'"]),
    "an unknown unit": (of_service("deadline: 5d"), [f"{AT}deadline: expected {TIME}, got '5d'"]),
    "a deadline that is no number": (of_service("deadline: .nan"),
                                     [f"{AT}deadline: expected seconds > 0 or null, got nan"]),
    "an endless deadline": (of_service("deadline: .inf"), [f"{AT}deadline: expected seconds > 0 or null, got inf"]),
    "a list as deadline": (of_service("deadline: [1]"), [f"{AT}deadline: expected seconds > 0 or null, got [1]"]),
    "true as deadline": (of_service("deadline: true"), [f"{AT}deadline: expected seconds > 0 or null, got true"]),
    "a date as deadline": (of_service("deadline: 2026-11-27"),
                           [f"{AT}deadline: expected {TIME}, got '2026-11-27'"]),
    "an attempt longer than the call": (of_service("deadline: 1s, attempt_timeout: 2s"),
                                        [f"{AT}attempt_timeout: expected at most the deadline (1), got 2.0"]),
    "attempts as a string": (of_service("retry: {attempts: three}"),
                             [f"{AT}retry.attempts: expected a whole number from 1 up, got 'three'"]),
    "half an attempt": (of_service("retry: {attempts: 2.5}"),
                        [f"{AT}retry.attempts: expected a whole number from 1 up, got 2.5"]),
    "retry as a number": (of_service("retry: 3"),
                          [f"{AT}retry: expected the settings of Retry, like {{…}}, or null, got 3"]),
    "retry switched on": (of_service("retry: true"),
                          [f"{AT}retry: expected the settings of Retry, like {{…}}, or null, got true"]),
    "an unknown wait": (of_service("retry: {wait: {exponentiel: {max: 1}}}"),
                        [f"{AT}retry.wait.exponentiel: unknown; did you mean 'exponential'?; expected one of "
                         "exponential, fixed, incrementing, random, random_exponential"]),
    "a wait without kind": (of_service("retry: {wait: 1s}"),
                            [f"{AT}retry.wait: expected one of exponential, fixed, incrementing, random, "
                             "random_exponential with its settings, like {exponential: …}, got '1s'"]),
    "a wait's unknown field": (of_service("retry: {wait: {fixed: {weit: 1}}}"),
                               [f"{AT}retry.wait.fixed.weit: unknown; did you mean 'wait'?"]),
    "a wait's wrong time": (of_service("retry: {wait: {fixed: 1 day}}"),
                            [f"{AT}retry.wait.fixed: expected {TIME}, got '1 day'"]),
    "retry strategies": (of_service("retry: {retry: {if_result: x}}"),
                         [f"{AT}retry.retry: can only be set in code: Retry(retry=…)"]),
    "a status that is none": (of_service("retry: {statuses: [503, 99]}"),
                              [f"{AT}retry.statuses: expected a set of statuses like {{503}}, got [503, 99]"]),
    "statuses as a number": (of_service("retry: {statuses: 503}"),
                             [f"{AT}retry.statuses: expected a set of statuses like {{503}}, got 503"]),
    "methods with a space": (of_service("retry: {methods: ['G ET']}"),
                             [f"{AT}retry.methods: expected a set of names like {{'GET'}}, got ['G ET']"]),
    "a budget in percent": (of_service("retry: {budget: {ratio: 20}}"),
                            [f"{AT}retry.budget.ratio: expected a number from 0 to 10, got 20"]),
    "an unknown balancer": (of_service("balancer: maglef"),
                            [f"{AT}balancer.name: expected one of adaptive, ip_hash, least_request, load_aware, "
                             "maglev, p2c, peak_ewma, random, ring_hash, round_robin, sticky, weighted_round_robin, "
                             "got 'maglef'; did you mean 'maglev'?"]),
    "a balancer's unknown field": (of_service("balancer: {name: maglev, boundd: 2}"),
                                   [f"{AT}balancer.boundd: unknown; did you mean bound?"]),
    "a balancer as a number": (of_service("balancer: 3"),
                               [f"{AT}balancer: expected the name of a balancer, or its settings, like {{…}}, got 3"]),
    "a hash of nothing": (of_service("balancer: {name: maglev, hash_on: heder}"),
                          [f"{AT}balancer.hash_on: expected 'key', 'path', 'ip', 'header:NAME', 'cookie:NAME', "
                           "'query:NAME' or a function of the request, got 'heder'; did you mean 'header'?"]),
    "yes for true": (of_service("outlier: {evidence: yes}"),
                     [f"{AT}outlier.evidence: expected true or false, got 'yes'"]),
    "on, where a name may be": (of_service("idempotency_key: on"),
                                [f"{AT}idempotency_key: expected true or false, got 'on'"]),
    "a share above one": (of_service("panic_threshold: 50"),
                          [f"{AT}panic_threshold: expected a share from 0 up to 1, got 50"]),
    "a header with a space": (of_service("attempt_header: 'X Attempt'"),
                              [f"{AT}attempt_header: expected the name of a header or null, got 'X Attempt'"]),
    "one of two": (of_service("host_header: servise"),
                   [f"{AT}host_header: expected 'service' or 'instance', got 'servise'; did you mean 'service'?"]),
    "limits that contradict": (of_service("limits: {max_in_flight: {initial: 3, least: 10}}"),
                               [f"{AT}limits.max_in_flight.initial: expected 10 to 1000, got 3"]),
    "an attempt longer than another's call": (
        "version: 1\ndefaults: {attempt_timeout: 2s}\nservices: {a: {deadline: 1s}}\n",
        ["F:2: defaults.attempt_timeout: expected at most the deadline (1), got 2.0 (for a)"]),
    "three at once": (
        of_service("deadline: x, retry: {attempts: 0}, hedg: {}"),
        [f"{AT}deadline: expected {TIME}, got 'x'", f"{AT}hedg: unknown; did you mean hedge?",
         f"{AT}retry.attempts: expected a whole number from 1 up, got 0"]),
    "once, though two services have it": (
        "version: 1\ndefaults: {deadline: x}\nservices: {a: {}, b: {}}\n",
        [f"F:2: defaults.deadline: expected {TIME}, got 'x'"]),
    "no registry": ("version: 1\ndiscovery: consull://x\n",
                    ["F:2: discovery: expected a URL that starts with one of consul://, consul+http://, "
                     "consul+https://, dns://, dns+srv://, env://, etcd://, etcd+https://, eureka://, eureka+https://, "
                     "file://, kubernetes://, kubernetes+http://, nacos://, nacos+https://, xds://, xds+https://, "
                     "zookeeper://, zookeeper+tls://; got 'consull://x'; did you mean 'consul'?"]),
    "a number as discovery": ("version: 1\ndiscovery: 8500\n",
                              ["F:2: discovery: expected a URL like consul://127.0.0.1:8500"]),
    "a fault without share": ("version: 1\nfaults: {orders: 503}\n",
                              ["F:2: faults.orders: expected a fault like 503@10% or delay=200ms@5%, got '503'"]),
    "a fault of 200 %": ("version: 1\nfaults: {orders: 503@200%}\n",
                         ["F:2: faults.orders: expected more than 0 and at most 100 percent, got '503@200%'"]),
    "a key twice": ("version: 1\nservices: {}\nservices: {}\n",
                    ["F:3: the key 'services' stands twice (first in line 2)"]),
    "an alias": ("version: 1\ndefaults: &d {deadline: 1}\nservices: {a: *d}\n",
                 ["F:3: an alias (*d): aliases are not read"]),
    "a merge key": ("version: 1\nservices: {a: {<<: {deadline: 1}}}\n",
                    ["F:2: a merge key (<<): merge keys are not read"]),
    "a tag": ("version: 1\nservices: !!python/object:os.system {}\n",
              ["F:2: a tag (tag:yaml.org,2002:python/object:os.system): tags are not read"]),
    "a bomb": ("a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]\n", ["F:2: an alias (*a): aliases are not read"]),
    "a tab": ("version: 1\nservices:\n\tpay: {}\n",
              ["F:3: no YAML: found character that cannot start any token"]),
    "half a file": ("version: 1\nservices: {pay: {dead",
                    ["F:2: no YAML: did not find expected ',' or '}'"]),
    "two documents": ("version: 1\n---\nversion: 1\n", ["F:2: a second document: one is expected"]),
    "UTF-16": ("version: 1\n".encode("utf-16"), ["F: is not UTF-8 (UTF-16, or no text)"]),
    "Latin-1": (b"version: 1\n# caf\xe9\n", ["F:2: is not UTF-8"]),
    "no text": (b"\0\1\2", ["F: is not UTF-8 (UTF-16, or no text)"]),
    "too long": ("version: 1\n" + "# \n" * 400_000, ["F: is longer than 1,000,000 bytes"]),
    "nested too deeply": ("version: 1\nservices: " + "[" * 200 + "]" * 200, ["F:2: nested too deeply"]),
    "a key that is a list": ("version: 1\n? [a]\n: b\n", ["F:2: a key that is no name"]),
}  # fmt: skip


def test_there_are_sixty() -> None:
    assert len(WRONG) >= 60


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(tmp_path: Path, name: str) -> None:
    text, expected = WRONG[name]
    assert lines(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"version": 1,\n "services": {"pay": {"deadlin": 1}}}',
         "F:2: services.pay.deadlin: unknown; did you mean deadline?"),
        ('{"version": 1,\n\t"version": 1}', "F:2: the key 'version' stands twice (first in line 1)"),
        ('{"version": 1,\n', "F:2: no JSON: Expecting property name enclosed in double quotes"),
        ('{"version": ' + "1" * 5000 + "}", "F:1: version: expected 1, got 1000000000000000000"),
        ("[" * 100_000, "F: nested too deeply"),
        ('{"version": 1, "defaults": {"deadline": NaN}}',
         "F:1: defaults.deadline: expected seconds > 0 or null, got nan"),
    ],
)  # fmt: skip
def test_json(tmp_path: Path, text: str, expected: str) -> None:
    assert lines(tmp_path, text, "smartclient.json") == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version = 1\n[services.pay]\ndeadline = 5\nretry.attempts = 0\n",
         "F:4: services.pay.retry.attempts: expected a whole number from 1 up, got 0"),
        ("version = 1\n[services.pay.outlier]\nintervall = 3\n",
         "F:3: services.pay.outlier.intervall: unknown; did you mean interval?"),
        ('version = 1\n[services."*.eu"]\nzon = "a"\n', "F:3: services.*.eu.zon: unknown; did you mean zone?"),
        ("version = 1\nversion = 1\n", "F:2: no TOML: Cannot overwrite a value"),
        ("version = 1\n[defaults]\ndeadline = 2026-11-27\n",
         f"F:3: defaults.deadline: expected {TIME}, got '2026-11-27'"),
    ],
)  # fmt: skip
def test_toml(tmp_path: Path, text: str, expected: str) -> None:
    assert lines(tmp_path, text, "smartclient.toml") == [expected]


def test_what_is_no_file(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        return str(caught.value).replace(str(path), "F")

    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "known.ini").write_text("a")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert said(tmp_path / "none.yaml") == "F: cannot be read: No such file or directory"
    assert said(tmp_path / "folder.yaml") == "F: is a directory"
    assert said(tmp_path / "fifo.yaml") == "F: is not a file"  # and nobody waits for its writer
    assert said(tmp_path / "known.ini") == "F: expected a name that ends in .yaml, .yml, .toml or .json"
    assert said(tmp_path / "loop.yaml") == "F: cannot be read: Too many levels of symbolic links"


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.yaml"
    path.write_text("version: 1")
    path.chmod(0)

    def child() -> None:
        if os.geteuid() == 0:  # whom no mode keeps out
            os.setuid(65534)
        with pytest.raises(ConfigError, match=r"secret\.yaml: cannot be read: Permission denied"):
            load_config(path)

    in_child(child)


def test_a_whole_one_in_three_languages(tmp_path: Path) -> None:
    plain = yaml.safe_load(WHOLE)
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + WHOLE.encode())  # a byte order mark
    (tmp_path / "a.json").write_text(json.dumps(plain, indent="\t"))
    (tmp_path / "a.toml").write_text("""
version = 1
discovery = "consul://127.0.0.1:8500?stale=true"
[defaults]
deadline = "5s"
attempt_timeout = "1s"
[services."*.eu"]
zone = "eu-1a"
[services.payments]
balancer = {name = "maglev", hash_on = "header:X-User"}
outlier.consecutive_5xx = 7
[services.payments.retry]
attempts = 4
wait = {exponential = {multiplier = "25ms", max = "1s"}}
statuses = [503]
budget = {ratio = 0.1}
""")
    for name in ("a.yaml", "a.json", "a.toml"):
        config = load_config(tmp_path / name, environment={})
        payments = config.policies["payments"]
        assert (config.default.deadline, config.default.attempt_timeout) == (5.0, 1.0)
        assert config.policies["*.eu"].zone == "eu-1a"
        assert config.policies["*.eu"].deadline == 5.0  # merged over the defaults
        assert payments.balancer == smartclient.Maglev(hash_on="header:X-User")
        assert payments.retry is not None
        wait: Any = payments.retry.wait
        assert (payments.retry.attempts, payments.retry.statuses, wait.multiplier, wait.max) == (4, {503}, 0.025, 1.0)
        assert payments.retry.budget == smartclient.RetryBudget(ratio=0.1)
        assert payments.outlier == smartclient.OutlierDetection(consecutive_5xx=7)


def test_another_kind_is_another_thing(tmp_path: Path) -> None:
    """Nothing of the defaults' balancer or wait is kept in another one's."""
    (tmp_path / "a.yaml").write_text(
        "version: 1\n"
        "defaults:\n  balancer: {name: adaptive, draws: 3}\n"
        "  retry: {attempts: 2, wait: {fixed: 1s}}\n  hedge: {after: 1s}\n"
        "services:\n  a: {balancer: {name: maglev, bound: 2}, retry: {wait: {random: {max: 2s}}}, hedge: null}\n"
        "  b: {balancer: {newest: 0.1}}\n  c: {retry: null}\n"
    )
    policies = load_config(tmp_path / "a.yaml", environment={}).policies
    assert policies["a"].balancer == smartclient.Maglev(bound=2)
    assert policies["a"].retry is not None
    assert (policies["a"].retry.attempts, type(policies["a"].retry.wait).__name__) == (2, "wait_random")
    assert policies["a"].hedge is None
    assert policies["b"].balancer == smartclient.Adaptive(draws=3, newest=0.1)
    assert policies["c"].retry is None


def test_the_environment_says_more(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "version: 1\nservices: {pay-eu: {deadline: 5}, '*.eu': {}, api.v1: {balancer: maglev}}\n"
    )

    def policies(**environment: str) -> Any:
        return load_config(tmp_path / "a.yaml", environment=environment).policies

    prefix = "SMARTCLIENT_POLICY__"
    found = policies(**{
        f"{prefix}PAY_EU__DEADLINE": "250ms", f"{prefix}ANY_EU__OUTLIER": "null",
        f"{prefix}API_V1__BALANCER__BOUND": "2",
        f"{prefix}PAY_EU__RETRY__STATUSES": "[500, 503]", f"{prefix}DEFAULTS__RETRY__ATTEMPTS": "2", "OTHER": "x",
    })  # fmt: skip
    assert found["pay-eu"].deadline == 0.25
    assert found["*.eu"].outlier is None
    assert found["api.v1"].balancer == smartclient.Maglev(bound=2)
    assert (found["pay-eu"].retry.statuses, found["pay-eu"].retry.attempts) == ({500, 503}, 2)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("PAYMNTS__DEADLINE", "1", "the file has no service PAYMNTS; did you mean PAYMENTS?"),
        ("PAYMENTS", "1", "expected a setting after the name, like …__DEADLINE"),
        ("PAYMENTS__DEADLIN", "1", "unknown; did you mean deadline?"),
        ("PAYMENTS__DEADLINE", "x", f"expected {TIME}, got 'x'"),
        ("PAYMENTS__RETRY__ATTEMPTS", "0", "expected a whole number from 1 up, got 0"),
    ],
)
def test_what_is_wrong_in_the_environment(tmp_path: Path, variable: str, value: str, expected: str) -> None:
    name = f"SMARTCLIENT_POLICY__{variable}"
    assert lines(tmp_path, of_service("deadline: 5s"), **{name: value}) == [f"{name}: {expected}"]


PACKAGE = """
from dataclasses import dataclass
from smartclient import Balancer, Static
from smartclient.support.checks import count, setting, text

@dataclass(frozen=True, kw_only=True)
class Nearest(Balancer):
    \"\"\"The nearest.

    region:  ours
    depth:   how far
    \"\"\"

    region: str = setting(check=text)
    depth: int = setting(3, count())
    name = "nearest"

    def picker(self, nodes, rng):
        return lambda call: nodes[0]

def near(**settings):
    return Nearest(region="eu", **settings)

def listed(parts, options):
    return Static({"orders": [parts.netloc]})
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Somebody's package, with a balancer and a source."""
    (tmp_path / "somebodys.py").write_text(PACKAGE)
    info = tmp_path / "somebodys-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[smartclient.balancers]\nnearest = somebodys:Nearest\nnear = somebodys:near\n"
        "[smartclient.discovery]\nmine = somebodys:listed\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "somebodys"


@pytest.mark.usefixtures("package")
def test_what_packages_add_takes_part(tmp_path: Path) -> None:
    """With fields, checks and words of its own."""
    (tmp_path / "a.yaml").write_text(
        "version: 1\ndiscovery: mine://10.0.0.1:80\nservices:\n"
        "  a: {balancer: {name: nearest, region: eu, depth: 5}}\n  b: {balancer: {name: near, depth: 2}}\n"
        "  c: {balancer: near}\n"
    )
    config = load_config(tmp_path / "a.yaml", environment={})
    balancers: list[Any] = [config.policies[name].balancer for name in "abc"]
    assert [(type(one).__name__, one.region, one.depth) for one in balancers] == [
        ("Nearest", "eu", 5), ("Nearest", "eu", 2), ("Nearest", "eu", 3)
    ]  # fmt: skip
    assert config.discovery == "mine://10.0.0.1:80"
    own = schema()["$defs"]["Nearest"]["properties"]
    assert (own["name"], own["depth"]["description"], own["depth"]["minimum"]) == ({"const": "nearest"}, "how far", 1)
    jsonschema.validate(read_yaml((tmp_path / "a.yaml").read_text()).plain, schema())


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("regoin: eu", "balancer.regoin: unknown; did you mean region?"),  # one message, not two
        ("depth: 1", "balancer: region is missing"),
        ("region: eu, depth: 0", "balancer.depth: expected a whole number from 1 up, got 0"),
    ],
)
def test_what_is_wrong_with_what_packages_add(tmp_path: Path, settings: str, expected: str) -> None:
    said = lines(tmp_path, of_service(f"balancer: {{name: nearest, {settings}}}"))
    assert said == [f"{AT}{expected}"]


# ---- the schema ----


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def examples() -> list[Path]:
    return [
        path for path in sorted((ROOT / "examples").rglob("*")) if path.suffix in READERS and "smartclient" in path.name
    ]


def plain(path: Path) -> Any:
    return said_in(path.read_bytes(), READERS[path.suffix]).plain


@pytest.mark.parametrize("path", examples(), ids=str)
def test_examples_are_fine(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonschema.validate(plain(path), schema())
    load_config(path, environment={})


def test_there_are_examples() -> None:
    assert len(examples()) >= 2


REFUSED = [name for name, (_, said) in WRONG.items() if "unknown" in said[0] or "expected" in said[0]]


@pytest.mark.parametrize("name", REFUSED)
def test_the_schema_refuses_what_is_refused(name: str) -> None:
    """Most of it: what only several fields together say, and what other services have, no schema says."""
    text = WRONG[name][0]
    if not isinstance(text, str) or name in BEYOND:
        return
    try:
        said = read_yaml(text).plain
    except BadFile:
        return
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(said, schema())


BEYOND = {
    "an attempt longer than the call", "an attempt longer than another's call", "limits that contradict",
    "no registry", "a fault without share", "a fault of 200 %", "a deadline of zero", "a deadline that is no number",
    "an endless deadline", "on, where a name may be", "a service twice, by case", "a wait's wrong time",
    "a budget in percent",
}  # fmt: skip


def test_policies_of_any_kind_have_a_written_form() -> None:
    """Each setting is in the schema, with what its class says of it."""
    definitions = schema()["$defs"]
    for field in Policy.__dataclass_fields__:
        if field != "_":
            assert definitions["Policy"]["properties"][field].get("description"), field


# ---- readers ----


@given(st.text() | st.text("{}[]:,-\n &*!<>|'\"#?%@`\t0123456789abcversion", max_size=200))
def test_readers_never_crash(text: str) -> None:
    for reader in (read_yaml, read_json, read_toml):
        with contextlib.suppress(BadFile):
            said_in(text.encode("utf-8", "surrogatepass"), reader)


trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=6), trees, max_size=4))
def test_json_and_yaml_say_the_same(tree: dict[str, Any]) -> None:
    assert read_json(json.dumps(tree)).plain == tree
    assert read_yaml(yaml.safe_dump(tree, allow_unicode=True)).plain == tree


@given(st.dictionaries(st.sampled_from(["deadline", "retry", "balancer", "outlier", "x"]), trees, max_size=4))
def test_a_file_of_any_shape_is_judged(tree: dict[str, Any]) -> None:
    from smartclient.config.config import config_in

    for document in (tree, {"version": 1, "defaults": tree}, {"version": 1, "services": {"a": tree, "b": tree}}):
        with contextlib.suppress(ConfigError):
            config_in(json.dumps(document).encode(), Path("smartclient.json"), {})


@given(trees, trees)
def test_what_is_merged_has_what_is_on_top(base: Any, over: Any) -> None:
    both = merged(_said(base), _said(over)).plain
    if not isinstance(over, dict) or not isinstance(base, dict):
        assert both == over
    else:
        assert set(both) == set(base) | set(over)


def _said(value: Any) -> Said:
    return read_json(json.dumps(value))


# ---- commands ----


def test_check_says_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "smartclient.yaml"
    path.write_text(of_service("deadline: x, hedg: {}"))
    assert main(["check", str(path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{path}:3: services.payments.deadline: expected {TIME}, got 'x'",
        f"{path}:3: services.payments.hedg: unknown; did you mean hedge?",
    ]
    path.write_text(WHOLE)
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: fine; policies of 2 services, and the default\n"


def test_check_of_a_service_says_where_each_value_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "smartclient.yaml"
    path.write_text(WHOLE.lstrip())
    monkeypatch.setenv("SMARTCLIENT_POLICY__PAYMENTS__DEADLINE", "2s")
    assert main(["check", str(path), "--service", "payments"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "payments: services.payments"
    assert "  deadline = 2.0  # SMARTCLIENT_POLICY__PAYMENTS__DEADLINE" in said
    assert f"  attempt_timeout = 1.0  # {path}:3 defaults.attempt_timeout" in said
    assert f"  balancer.name = maglev  # {path}:7 services.payments.balancer.name" in said
    assert f"  hedge = null  # {path}:10 services.payments.hedge" in said
    assert "  outlier.interval = 10.0  # default" in said
    assert main(["check", str(path), "--service", "a.eu"]) == 0
    assert capsys.readouterr().out.startswith("a.eu: services.*.eu\n")
    assert main(["check", str(path), "--service", "x"]) == 0
    assert capsys.readouterr().out.startswith("x: the defaults: the file does not name it\n")


def test_schema_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


def test_who_reads_no_further_gets_no_traceback() -> None:
    """As with `| head`."""
    done = subprocess.Popen(
        [sys.executable, "-m", "smartclient", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with done:
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.close()
        assert done.stderr.read() == ""
    assert done.returncode == 1


OPTIONAL = ("cattrs", "yaml", "dns", "kazoo", "grpc", "h2", "httpx2", "trio", "opentelemetry", "prometheus_client")


def without_extras(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python, where no optional package is installed."""
    for package in OPTIONAL:
        (home / f"{package}.py").write_text("raise ImportError('no such package')")
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{ROOT}"},
    )  # fmt: skip


def test_without_the_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"version": 1}')
    done = without_extras(tmp_path, "-m", "smartclient", "check", str(tmp_path / "x.json"))
    needs = "configuration files need cattrs: pip install 'smartclient[config]'"
    assert (done.returncode, done.stderr) == (2, f"smartclient check: {needs}\n")


def test_all_names_are_there_without_the_extras(tmp_path: Path) -> None:
    done = without_extras(tmp_path, "-c", "from smartclient import *; print(Client, load_config)")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_schema_needs_no_extra(tmp_path: Path) -> None:
    done = without_extras(tmp_path, "-m", "smartclient", "schema")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, schema(), "")
