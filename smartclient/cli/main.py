"""The command `smartclient`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from .. import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        status = _run(parser, options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # as in `smartclient schema | head`
        # Or the flush at the end would fail, too (docs.python.org: signal, "Note on SIGPIPE").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    # Each is imported late: `--version` needs none of them.
    if options.command == "resolve":
        from .resolve import run_resolve

        return run_resolve(parser, options)
    if options.command == "call":
        from .call import run_call

        return run_call(parser, options)
    if options.command == "simulate":
        from .simulate import run_simulation

        return run_simulation(parser, options)
    if options.command in ("check", "schema"):
        try:
            return _run_configuration(options)
        except ImportError as error:  # of the extra `config`
            parser.exit(2, f"smartclient {options.command}: {error}\n")
    if options.command == "top":
        from .top import run_top

        return run_top(parser, options)
    from .demo import Failed, run

    try:
        return run(options.seconds, options.json, options.consul, options.status)
    except Failed as error:
        parser.exit(2, f"smartclient demo: {error}\n")
    except KeyboardInterrupt:
        return 130


def _run_configuration(options: argparse.Namespace) -> int:
    if options.command == "schema":
        from .schema import run_schema

        return run_schema()
    from .check import run_check

    return run_check(options.file, options.service)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="smartclient", description="Client-side load balancing for httpx.")
    parser.add_argument("--version", action="version", version=f"smartclient {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="see it work: a small fleet with a failing and a slow server, smartclient beside plain httpx",
        description="Starts a small fleet of real servers, one failing and one slow, and sends it the same traffic "
        "through smartclient and through plain httpx round robin. Exit status 0 if no smartclient call failed.",
    )
    demo.add_argument("--seconds", type=_positive, default=8.0, help="how long the traffic lasts (default 8)")
    demo.add_argument("--json", action="store_true", help="the result as one JSON object on the last line")
    demo.add_argument("--consul", metavar="URL", help="register the fleet with this Consul agent and discover it there")
    demo.add_argument("--status", action="store_true", help="show its status to `smartclient top` and a browser")
    top = commands.add_parser(
        "top",
        help="what running clients see: services, instances, who is out and why",
        description="The status of the clients of this user's processes that show it (SMARTCLIENT_STATUS=1, or "
        "Client(…, status=True)), live; piped, one plain snapshot. Exit status 1 if there is none.",
    )
    top.add_argument("target", nargs="?", metavar="PID | URL | SOCKET", help="one of them (default: all)")
    top.add_argument("--interval", type=_positive, default=1.0, help="seconds between two looks (default 1)")
    top.add_argument("--once", action="store_true", help="one snapshot")
    simulation = commands.add_parser(
        "simulate",
        help="play a scenario of servers and clients with each balancer, beside an oracle that sees all queues",
        description="A discrete-event simulation that drives the real balancers, detectors and retries. The format of "
        "a scenario, and a dozen of them: examples/scenarios.",
    )
    simulation.add_argument("scenario", metavar="SCENARIO.json")
    simulation.add_argument("--balancer", action="append", metavar="NAME", help="a balancer (repeat for several)")
    simulation.add_argument("--json", action="store_true", help="the result as one JSON object")
    simulation.add_argument("--no-ejection", action="store_true", help="no outlier detection")
    simulation.add_argument("--no-retry", action="store_true", help="no retries")
    simulation.add_argument("--plot", metavar="FILE", help="draw it into an .svg or .png (needs 'smartclient[plot]')")
    _add_configuration(commands)
    resolve = commands.add_parser(
        "resolve",
        help="what a client sees: the instances of a service",
        description="The instances of a service as its clients see them. Exit status 0 if there are any.",
    )
    resolve.add_argument("service", metavar="SERVICE")
    resolve.add_argument("--watch", action="store_true", help="go on, and print each change")
    resolve.add_argument("--json", action="store_true", help="a JSON object for each list")
    call = commands.add_parser(
        "call",
        help="make calls, and show what became of each attempt",
        description="Calls a URL and shows each attempt's story. Exit status 0 if no call failed.",
    )
    call.add_argument("url", metavar="URL")
    call.add_argument("-n", type=int, default=1, metavar="N", help="how many calls (default 1)")
    call.add_argument("--method", default="GET")
    call.add_argument("--explain", action="store_true", help="why each attempt went where it did")
    for command in (resolve, call):
        command.add_argument("--discovery", metavar="URL", default=os.environ.get("SMARTCLIENT_DISCOVERY"),
                             required="SMARTCLIENT_DISCOVERY" not in os.environ,
                             help="consul://…, dns://…, file:///… (default: SMARTCLIENT_DISCOVERY)")  # fmt: skip
        command.add_argument("--timeout", type=_positive, default=10.0, help="seconds to wait (default 10)")
    return parser


def _add_configuration(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="a configuration file: all that is wrong with it, or what it makes of a service",
        description="Checks a configuration file, with what the environment says on top of it. Exit status 1 and a "
        "line for each problem; with --service the policy in force, and where each of its values comes from.",
    )
    check.add_argument("file", metavar="FILE")
    check.add_argument("--service", metavar="NAME", help="print the policy of this service")
    commands.add_parser("schema", help="the JSON Schema of configuration files, for editors")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"expected seconds from 0 to 3600, got {text}")
    return value
