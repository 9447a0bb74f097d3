from __future__ import annotations

import json

import pytest

from smartclient import cli


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
