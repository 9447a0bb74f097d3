"""`smartclient resolve`: what a client sees of a service."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from queue import Empty, SimpleQueue
from typing import Any

from ..discovery import discovery_of
from ..discovery.watcher import standing_alone
from ..instance import Instance, parse_all
from ..support.hosts import wire_name
from ..support.untrusted import masked, shown

COLUMNS = ("address", "weight", "priority", "zone", "id", "metadata")


def run_resolve(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Print the instances of a service; 1: there are none, or nobody answers."""
    try:
        source = discovery_of(options.discovery)
    except (ValueError, TypeError, ImportError) as error:
        parser.exit(2, f"smartclient resolve: {masked(str(error))}\n")
    service = wire_name(options.service)
    if source is None or not source.covers(service):
        print(f"{source} does not cover {shown(service)}", file=sys.stderr)
        return 1
    known = source.known(service)
    if known is not None:
        instances = parse_all(known, f"service {service!r}")
        _show(service, str(source), instances, options.json)
        return 0 if instances else 1
    return _resolve_watched(source, service, options)


def _resolve_watched(source: Any, service: str, options: argparse.Namespace) -> int:
    said: SimpleQueue[Any] = SimpleQueue()
    watcher = standing_alone(service, source, said.put, said.put)
    watcher.start()
    problem = ""
    status, until = 1, time.monotonic() + options.timeout
    try:
        while True:
            try:
                one = said.get(timeout=None if options.watch else max(0.0, until - time.monotonic()))
            except Empty:
                print(f"{source} has not answered within {options.timeout:g} s", file=sys.stderr)
                return 1
            if isinstance(one, str):
                if one != problem:  # once, not at each try
                    print(f"{source}: {one}", file=sys.stderr)
                problem = one
                continue
            problem = ""
            status = 0 if one else 1
            _show(service, str(source), one, options.json)
            if not options.watch:
                return status
    except KeyboardInterrupt:
        return status
    finally:
        watcher.stop()
        watcher.join()


def _show(service: str, source: str, instances: Sequence[Instance], as_json: bool) -> None:
    if as_json:
        entries = [{**asdict(one), "metadata": dict(one.metadata)} for one in instances]
        print(json.dumps({"service": service, "source": source, "instances": entries}), flush=True)
        return
    rows = [COLUMNS, *(
        (str(one), f"{one.weight:g}", str(one.priority), one.zone or "", one.id or "",
         " ".join(f"{key}={value}" for key, value in sorted(one.metadata.items()) if value))
        for one in sorted(instances, key=lambda one: (one.priority, str(one)))
    )]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    print(f"{time.strftime('%H:%M:%S')}  {service}: {len(instances)} instances from {source}")
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()
