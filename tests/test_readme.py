"""What the README shows, and every example, runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "examples").glob("*/README.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.parent.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("block", BLOCKS)
def test_readme_block(block: str, tmp_path: Path) -> None:
    (tmp_path / "block.py").write_text(block)
    run(str(tmp_path / "block.py"))


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.name != "consul_registry.py"], ids=lambda e: e.stem)
def test_example(example: Path) -> None:
    assert run(str(example))


@pytest.mark.live
def test_consul_example_and_demo(agents: Any) -> None:
    agent = agents()
    assert "none failed" in run(str(ROOT / "examples" / "consul_registry.py"), f"http://{agent.address}")
    assert "lost no call" in run("-m", "smartclient", "demo", "--seconds", "2", "--consul", f"http://{agent.address}")


def test_the_front_door_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link
