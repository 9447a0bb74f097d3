from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parent / "kit"), str(Path(__file__).parent / "live")]

from agent import Agent, consul_program  # noqa: E402
from driving import Driver, all_drivers, driver_of, needs  # noqa: E402
from hypothesis import settings  # noqa: E402

from smartclient.testing import Fleet  # noqa: E402

# The machine is shared: an example that takes long says nothing.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


@pytest.fixture(params=all_drivers())
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """Each scenario runs sync, under asyncio and under trio, in both flavours."""
    kind, flavour = request.param
    with driver_of(kind, flavour) as made:
        yield made


@pytest.fixture(params=all_drivers(("asyncio", "trio")))
def async_driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """For what only tasks can do."""
    with driver_of(*request.param) as made:
        yield made


@pytest.fixture(params=all_drivers(("sync",)))
def sync_driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """For what only blocking calls do."""
    with driver_of(*request.param) as made:
        yield made


@pytest.fixture
def fleet() -> Iterator[Callable[..., Fleet]]:
    """Makes fleets that are stopped at the test's end."""
    with ExitStack() as stack:

        def make(*args: Any, **keywords: Any) -> Fleet:
            return stack.enter_context(Fleet(*args, **keywords))

        yield make


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SMARTCLIENT_DISCOVERY", "CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def consul_binary() -> str:
    program = consul_program()
    needs("no Consul agent: put consul on the PATH, or set CONSUL_BINARY" if program is None else None)
    assert program is not None
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
