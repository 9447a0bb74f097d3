"""`smartclient top`: the status of running clients, live in a terminal; off a terminal one plain snapshot."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..status.socket import PATIENCE, sockets
from ..status.words import duration, headline, in_order, reason, services_in_order, share, summary
from ..support.untrusted import from_json, line

WIDTH = 150  # off a terminal
SHOWN = 30  # instances of a service
COLOURS = {"usable": "green", "ejected": "red", "unhealthy": "red", "unused": "dim"}


def run_top(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """The command; its exit status."""
    try:
        from rich.console import Console
    except ImportError:
        parser.exit(2, "smartclient top needs rich: pip install 'smartclient[rich]'\n")
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    try:
        found = read(options.target)
        if not found:
            parser.exit(1, f"{nothing(options.target)}\n")
        if options.once or not sys.stdout.isatty():
            console.print(drawn(found))
            return 0
        watch(console, found, options)
    except KeyboardInterrupt:
        pass
    return 0


def watch(console: Any, found: list[Mapping[str, Any]], options: argparse.Namespace) -> None:
    """Live, until Ctrl-C. Of a client that answers no longer, what was known last stays."""
    from rich.live import Live

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the terminal is left as it was
    answered = datetime.now()
    with Live(drawn(found, answered), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(options.interval)
            now = read(options.target)
            if now:
                found, answered = now, datetime.now()
            live.update(drawn(found, answered, stale=not now), refresh=True)


def read(target: str | None) -> list[Mapping[str, Any]]:
    """The status of each client that is meant: a process, a URL, a socket; None: all of this user's."""
    if target is not None and target.startswith(("http://", "https://")):
        return [one for one in [_over_http(target)] if one is not None]
    if target is not None and not target.isdigit():
        return [one for one in [_over_socket(Path(target))] if one is not None]
    try:
        paths = list(sockets())
    except OSError:
        return []
    mine = [path for path in paths if target is None or path.name.startswith(f"{target}-")]
    return [one for one in map(_over_socket, mine) if one is not None]


def nothing(target: str | None) -> str:
    if target is None:
        return "no client shows its status: start one with SMARTCLIENT_STATUS=1, or Client(…, status=True)"
    return f"{target}: no client shows its status there (SMARTCLIENT_STATUS=1, or Client(…, status=True))"


def drawn(clients: list[Mapping[str, Any]], at: datetime | None = None, stale: bool = False) -> Any:
    """The clients as something that rich draws. at: when they said so;  stale: they have not answered since"""
    from rich.console import Group
    from rich.text import Text

    if not clients:
        return Text("no answer", style="red")
    parts: list[Any] = []
    if at is not None:
        since = f"No answer since {at:%H:%M:%S}: this is what was known then." if stale else f"as of {at:%H:%M:%S}"
        parts.append(Text(since, style="bold white on red" if stale else "dim"))
    for client in clients:
        try:
            parts += _client(client)
        except (LookupError, TypeError, ValueError, AttributeError):
            parts.append(Text("an answer that is not understood: of another version of smartclient?", style="red"))
    return Group(*parts)


def _client(client: Mapping[str, Any]) -> list[Any]:
    from rich.text import Text

    parts: list[Any] = [Text(line(f"smartclient {client['version']} in process {client['pid']}"), style="bold")]
    parts += [Text(line(text), style="red" if bad else "dim") for text, bad in headline(client)]
    for service in services_in_order(client["services"]):
        parts.append(Text(f"\n{line(service['name'])}", style="bold"))
        parts += [Text(line(text), style="red" if bad else "dim") for text, bad in summary(service)]
        parts.append(_table(service["instances"]))
    if not client["services"]:
        parts.append(Text("no service has been called yet", style="dim"))
    return parts


def _table(instances: list[Mapping[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("instance", no_wrap=True, overflow="ellipsis", min_width=16, max_width=48)
    table.add_column("state", overflow="fold", min_width=20)
    for column in ("calls", "failed", "share", "latency", "in flight", "idle"):
        table.add_column(column, justify="right", no_wrap=True)
    ordered = in_order(instances)
    for one in ordered[:SHOWN]:
        colour = "yellow" if one["state"] == "usable" and one["why"] else COLOURS.get(one["state"], "yellow")
        state = Text(line(one["state"]), style=colour)
        cells = (
            str(one["calls"]), str(one["failures"] or ""), share(one["share"]),
            "" if one["latency"] is None else duration(one["latency"]),
            str(one["in_flight"] or ""), str(one["connections"][0] or ""),
        )  # fmt: skip
        # Text, not markup: a "[" of a stranger's is a "[".
        shown = [Text(line(cell)) for cell in cells]
        table.add_row(Text(line(one["address"])), state.append(f" {line(reason(one))}", style="dim"), *shown)
    if len(ordered) > SHOWN:
        table.add_row(Text(f"… {len(ordered) - SHOWN} more"))
    return table


def _over_socket(path: Path) -> Mapping[str, Any] | None:
    import httpx

    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=os.fspath(path)), timeout=PATIENCE) as client:
            return _understood(client.get("http://status/").content)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return None


def _over_http(url: str) -> Mapping[str, Any] | None:
    import httpx

    try:
        return _understood(httpx.get(url, params={"format": "json"}, timeout=PATIENCE).content)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return None


def _understood(content: bytes) -> Mapping[str, Any] | None:
    said = from_json(content)
    return said if isinstance(said, dict) and "services" in said else None
