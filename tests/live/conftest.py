from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent import Agent, consul_program


@pytest.fixture(scope="session")
def consul_binary() -> str:
    program = consul_program()
    if program is None:
        why = "no Consul agent: put consul on the PATH, or set CONSUL_BINARY"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return program


@pytest.fixture
def agents(consul_binary: str, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Starts agents that are stopped at the test's end."""
    started: list[Agent] = []

    def start(**config: Any) -> Agent:
        home = tmp_path / str(len(started))
        home.mkdir()
        agent = Agent(consul_binary, home, **config)
        started.append(agent)
        return agent.start()

    yield start
    for agent in started:
        agent.stop(9)
