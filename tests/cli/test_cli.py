from __future__ import annotations

import json
from pathlib import Path

import pytest

from smartclient.cli import main as cli
from smartclient.testing import FAILING, Fleet


def test_demo_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--seconds", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result) == {"smartclient", "httpx", "instances"}
    assert {"calls", "failed", "p50_ms", "p99_ms"} <= set(result["smartclient"])
    assert result["smartclient"]["failed"] == 0
    assert result["smartclient"]["calls"] == result["httpx"]["calls"] == 160
    assert result["httpx"]["failed"] > 20
    assert [instance["kind"] for instance in result["instances"]].count("failing") == 1


def test_demo_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--seconds", "1"]) == 0
    out = capsys.readouterr().out
    assert "smartclient lost no call" in out


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["demo", "--consul", "http://127.0.0.1:1"])
    assert caught.value.code == 2
    assert "consul at 127.0.0.1:1 does not take registrations" in capsys.readouterr().err
    for wrong in ("http://127.0.0.1:x", "consul://user:hidden@127.0.0.1", "consul+https://127.0.0.1:1?token=hidden"):
        with pytest.raises(SystemExit) as caught:
            cli.main(["demo", "--consul", wrong])
        assert caught.value.code == 2
        assert "hidden" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["demo", "--seconds", "-1"])


def test_resolve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "services.json"
    second = {"host": "10.0.0.2", "port": 81, "weight": 2, "zone": "a", "id": "b"}
    path.write_text(json.dumps({"orders": ["10.0.0.1:80", second], "none": []}))
    url = f"file://{path}"
    assert cli.main(["resolve", "orders", "--discovery", url]) == 0
    said = capsys.readouterr().out
    assert f"orders: 2 instances from file {path}" in said
    assert "10.0.0.2:81  2       0         a     b" in said
    assert cli.main(["resolve", "orders", "--discovery", url, "--json"]) == 0
    assert [one["port"] for one in json.loads(capsys.readouterr().out)["instances"]] == [80, 81]
    assert cli.main(["resolve", "none", "--discovery", url]) == 1
    assert cli.main(["resolve", "elsewhere", "--discovery", url]) == 1
    assert "does not cover 'elsewhere'" in capsys.readouterr().err


def test_resolve_says_why_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["resolve", "orders", "--discovery", "etcd://127.0.0.1:1", "--timeout", "0.8"]) == 1
    said = capsys.readouterr().err
    assert said.count("etcd at 127.0.0.1:1: ConnectError") == 1
    assert "has not answered within 0.8 s" in said
    with pytest.raises(SystemExit) as ended:
        cli.main(["resolve", "orders", "--discovery", "nonsense://x"])
    assert ended.value.code == 2


def test_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Fleet(2) as fleet:
        fleet[0].behave(FAILING)
        path = tmp_path / "services.json"
        path.write_text(json.dumps({"orders": fleet.addresses}))
        assert cli.main(["call", "http://orders/", "--discovery", f"file://{path}", "-n", "6"]) == 0
        said = capsys.readouterr().out
        assert said.count(" ms  200\n") == 6
        assert f"{fleet[1].address}  success" in said
        fleet[1].behave(FAILING)
        assert cli.main(["call", "http://orders/", "--discovery", f"file://{path}"]) == 1
        assert f"{fleet[0].address}  failure" in capsys.readouterr().out
