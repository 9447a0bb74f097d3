"""What our own tests use, for yours: a clock that is set by hand, a discovery that is told what to say, and a fleet of
real servers on loopback that are slow, failing, refusing, silent, resetting, truncating or closing idle connections on
demand.

    with Fleet(3) as fleet, Client({"orders": fleet.addresses}) as client:
        fleet[0].behave(FAILING)
        assert client.get("http://orders/").status_code == 200
"""

from .clock import VirtualClock
from .fleet import (
    CLOSING,
    CLOSING_IDLE,
    FAILING,
    GARBAGE,
    OK,
    RESETTING,
    RESETTING_BODY,
    SILENT,
    SLOW,
    SLOW_BODY,
    SLOW_HEADERS,
    TRUNCATING,
    Behaviour,
    Fleet,
    Received,
    Server,
    answering,
)
from .scenario import BadScenario, Scenario
from .script import ScriptedDiscovery
from .simulation import simulate

__all__ = [
    "CLOSING",
    "CLOSING_IDLE",
    "FAILING",
    "GARBAGE",
    "OK",
    "RESETTING",
    "RESETTING_BODY",
    "SILENT",
    "SLOW",
    "SLOW_BODY",
    "SLOW_HEADERS",
    "TRUNCATING",
    "BadScenario",
    "Behaviour",
    "Fleet",
    "Received",
    "Scenario",
    "ScriptedDiscovery",
    "Server",
    "VirtualClock",
    "answering",
    "simulate",
]
