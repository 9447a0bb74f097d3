"""`smartclient simulate`: a scenario as a table, as JSON, as a picture."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..balancers import balancer_named
from ..testing.scenario import BadScenario, Scenario
from ..testing.simulation import simulate

BALANCERS = ("adaptive", "peak_ewma", "p2c", "least_request", "round_robin", "random")


def run_simulation(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """The command; its exit status."""
    names = options.balancer or list(BALANCERS)
    try:
        for name in names:
            balancer_named(name)
        if options.plot and not options.plot.endswith((".svg", ".png")):
            raise ValueError(f"--plot: expected a file that ends in .svg or .png, got {options.plot!r}")
        scenario = Scenario.read(options.scenario)
    except (BadScenario, ValueError, TypeError) as error:
        parser.exit(2, f"smartclient simulate: {error}\n")
    result = simulate(scenario, names, ejection=not options.no_ejection, retry=not options.no_retry)
    if options.plot:
        try:
            draw(result, options.plot)
        except ImportError:
            parser.exit(2, "smartclient simulate: --plot needs matplotlib: pip install 'smartclient[plot]'\n")
    print(json.dumps(result) if options.json else table(result, len(scenario.servers)))
    return 0


def table(result: dict[str, Any], servers: int) -> str:
    """The result for people."""
    oracle = result["oracle"]
    columns = ("p50 ms", "p99 ms", "/ oracle", "p99.9 ms", "in time", "failed", "attempts", "ejected")
    lines = [f"{'':22}" + "".join(f"{column:>10}" for column in columns) + "  share of a server, least to most"]
    for name, row in (("oracle", oracle), *result["balancers"].items()):
        ratio = row["p99_ms"] / oracle["p99_ms"] if oracle["p99_ms"] else 1.0
        share = sorted(row["share"])
        spread = f"{share[0]:.1%} - {share[-1]:.1%} (even: {1 / servers:.1%})"
        lines.append(
            f"{name:22}{row['p50_ms']:10.1f}{row['p99_ms']:10.1f}{ratio:10.2f}{row['p999_ms']:10.1f}"
            f"{row['within_timeout']:10.2%}{row['failed']:10}{row['attempts']:10}{len(row['ejections']):10}  {spread}"
        )
        for route, its in row.get("routes", {}).items():
            least = oracle["routes"][route]["p99_ms"]
            times = its["p99_ms"] / least if least else 1.0
            lines.append(
                f"  {route[:20]:20}{its['p50_ms']:10.1f}{its['p99_ms']:10.1f}{times:10.2f}{its['p999_ms']:10.1f}"
            )
    return "\n".join(lines)


def draw(result: dict[str, Any], file: str) -> None:
    """Percentiles and shares as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = {"oracle": result["oracle"], **result["balancers"]}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 1.5 + 0.4 * len(rows)))
    for offset, (percentile, label) in enumerate((("p50_ms", "p50"), ("p99_ms", "p99"), ("p999_ms", "p99.9"))):
        places = [place + 0.27 * offset for place in range(len(rows))]
        left.barh(places, [row[percentile] for row in rows.values()], 0.25, label=label)
    left.set_yticks([place + 0.27 for place in range(len(rows))], list(rows))
    left.invert_yaxis()
    left.set_xscale("log")
    left.set_xlabel("ms")
    left.legend()
    for name, row in rows.items():
        right.plot(row["share"], label=name)
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set_xlabel("server")
    right.set_ylabel("share of the attempts")
    right.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)
