"""The result of a simulation: percentiles, shares, and both by route and by window of time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from .scenario import Scenario


class TimeWindow:
    """Calls that began in one window of time, and attempts that did."""

    __slots__ = ("attempts", "failed", "latencies")

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.failed = 0
        self.attempts: Counter[int] = Counter()


class Tally:
    """Counts while a simulation runs."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._latencies: list[float] = []
        self._by_route: dict[str, list[float]] = {route.name: [] for route in scenario.routes}
        self._by_window: dict[int, TimeWindow] = {}
        self._within = self._failed = 0
        self._share: Counter[int] = Counter()
        self.ejections: list[dict[str, Any]] = []

    def attempt(self, server: int, now: float) -> None:
        self._share[server] += 1
        if self._scenario.window is not None:
            self._time_window(now).attempts[server] += 1

    def call(self, route: str, came: float, now: float, well: bool) -> None:
        timeout, took = self._scenario.timeout, now - came
        self._latencies.append(took)
        self._failed += not well
        self._within += well and (timeout is None or took <= timeout)
        self._by_route[route].append(took)
        if self._scenario.window is not None:
            window = self._time_window(came)
            window.latencies.append(took)
            window.failed += not well

    def result(self) -> dict[str, Any]:
        ordered = sorted(self._latencies)
        servers = range(len(self._scenario.servers))
        result = {
            **_percentiles(ordered),
            "within_timeout": self._within / len(ordered) if ordered else 1.0,
            "failed": self._failed,
            "calls": len(ordered),
            "attempts": sum(self._share.values()),
            "share": _shares(self._share, servers),
            "ejections": self.ejections,
        }
        if len(self._scenario.routes) > 1:
            result["routes"] = {
                name: {"calls": len(found), **_percentiles(sorted(found))} for name, found in self._by_route.items()
            }
        if self._scenario.window is not None:
            result["windows"] = [
                {
                    "from_s": round(number * self._scenario.window, 6),
                    "calls": len(window.latencies),
                    "failed": window.failed,
                    **_percentiles(sorted(window.latencies)),
                    "share": _shares(window.attempts, servers),
                }
                for number, window in sorted(self._by_window.items())
            ]
        return result

    def _time_window(self, now: float) -> TimeWindow:
        assert self._scenario.window is not None
        number = int(now / self._scenario.window)
        window = self._by_window.get(number)
        if window is None:
            window = self._by_window[number] = TimeWindow()
        return window


def _shares(counts: Counter[int], servers: range) -> list[float]:
    total = sum(counts.values()) or 1
    return [round(counts[number] / total, 6) for number in servers]


def _percentiles(ordered: Sequence[float]) -> dict[str, float]:
    mean = sum(ordered) / len(ordered) if ordered else 0.0
    return {
        "mean_ms": round(mean * 1000, 3),
        "p50_ms": _percentile(ordered, 0.5),
        "p99_ms": _percentile(ordered, 0.99),
        "p999_ms": _percentile(ordered, 0.999),
    }


def _percentile(ordered: Sequence[float], share: float) -> float:
    return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1000, 3) if ordered else 0.0
