"""`smartclient call`: makes calls, and shows the result of each attempt."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx

from ..client import Client
from ..errors import describe
from ..reports import Why, report
from ..services.call import call
from ..support.untrusted import line, masked


def explained(why: Why) -> Iterator[str]:
    """Why an attempt went there, in lines."""
    for candidate in why.candidates:
        yield f"{why.balancer}: {candidate}"
    for instance, reason in why.left_out:
        yield f"left out: {instance}: {line(reason)}"


def run_call(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Make calls and print the story of each; 1: one failed."""
    failed = 0
    try:
        client = Client(options.discovery, timeout=options.timeout)
    except (ValueError, TypeError, ImportError) as error:
        parser.exit(2, f"smartclient call: {masked(str(error))}\n")
    with client:
        for number in range(1, options.n + 1):
            began = time.monotonic()
            story: Any
            try:
                response = client.request(options.method, options.url, extensions=call(explain=options.explain))
                what, story = str(response.status_code), report(response)
                failed += response.status_code >= 500
            except httpx.HTTPError as error:
                what, story = describe(error), report(error)
                failed += 1
            except (httpx.InvalidURL, ValueError) as error:
                parser.exit(2, f"smartclient call: {masked(str(error))}\n")
            print(f"{number:4}  {(time.monotonic() - began) * 1000:7.1f} ms  {what}")
            for attempt in story.attempts if story is not None else ():
                said = attempt.error or (f"status {attempt.status}" if attempt.status else "")
                print(f"        {attempt.instance}  {attempt.outcome}  {attempt.elapsed * 1000:.1f} ms  {said}")
                for told in explained(attempt.why) if attempt.why is not None else ():
                    print(f"          {told}")
            if story is None and number == 1:
                where = masked(f"{options.url} is not a service of {options.discovery}")
                print(f"      {where}: plain httpx", file=sys.stderr)
    return 1 if failed else 0
