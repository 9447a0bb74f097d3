"""The status as a page: one file without anything from elsewhere, which refreshes itself. All that a registry says is
escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from html import escape
from typing import Any

from ..services.states import STATES
from ..support.untrusted import line
from .words import OUT, duration, headline, in_order, reason, services_in_order, share, summary

AT_ONCE = 30  # usable instances that are shown; the others on demand
COLUMNS = (
    "instance", "state", "calls", "failed", "share of the last minute", "latency", "in flight", "idle", "weight", "zone"
)  # fmt: skip

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>smartclient</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<noscript><meta http-equiv="refresh" content="5"></noscript>
<style>
:root { color-scheme: light dark; --line: #8884; --dim: #777; --bad: #c22; --warn: #b60; --good: #283; --bar: #48c6; }
body { font: 14px/1.4 system-ui, sans-serif; margin: 1rem 1.5rem; }
h1 { font-size: 1.1rem; font-weight: 600; margin: 0 0 1rem; }
h2 { font-size: 1.1rem; margin: 1.5rem 0 .2rem; }
p { margin: .1rem 0; } .dim { color: var(--dim); } .bad { color: var(--bad); font-weight: 600; }
table { border-collapse: collapse; margin-top: .5rem; width: 100%; }
th { text-align: left; font-weight: 500; color: var(--dim); position: sticky; top: 0; background: Canvas; }
td, th { padding: .15rem .6rem .15rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.i { font-family: ui-monospace, monospace; white-space: nowrap; max-width: 24rem; }
td.s { white-space: nowrap; min-width: 13em; } .stale main { opacity: .5; } .avoided { color: var(--warn); }
#stale { color: #fff; background: var(--bad); font-weight: 600; padding: 0 .6rem; } #stale:empty { display: none; }
tr.out td { background: color-mix(in srgb, var(--bad) 12%, transparent); }
@media (max-width: 700px) { td.w, th.w { display: none; } td.i { white-space: normal; overflow-wrap: anywhere; } }
td.z { white-space: nowrap; } td.i { overflow: hidden; text-overflow: ellipsis; }
.usable { color: var(--good); } .ejected, .unhealthy { color: var(--bad); }
.paused, .probing, .warming { color: var(--warn); } .unused { color: var(--dim); }
.bar { display: inline-block; height: .6em; background: var(--bar); margin-right: .4em; }
details > summary { cursor: pointer; color: var(--dim); margin-top: .3rem; }
</style></head><body>
"""
FOOT = """<script>
// Every two seconds, without losing what is scrolled to or opened.
async function again() {
  try {
    const text = await (await fetch(location.href, {cache: "no-store"})).text();
    const opened = [...document.querySelectorAll("details[open]")].map(one => one.id);
    const fresh = new DOMParser().parseFromString(text, "text/html");
    document.querySelector("main").innerHTML = fresh.querySelector("main").innerHTML;
    for (const id of opened) { const one = document.getElementById(id); if (one) one.open = true; }
    document.title = title();
    answered = new Date();
    document.body.classList.remove("stale");
    document.getElementById("stale").textContent = "";
  } catch (error) {
    document.body.classList.add("stale");
    document.getElementById("stale").textContent =
      "No answer since " + answered.toLocaleTimeString() + ": this is what was known then.";
    document.title = "(no answer) smartclient";
  }
}
function title() {
  return document.querySelector(".bad, .ejected, .unhealthy") ? "(!) smartclient" : "smartclient";
}
let answered = new Date();
document.title = title();
setInterval(again, 2000);
</script></body></html>
"""


def page(status: Mapping[str, Any]) -> str:
    """A status, as `as_dict()` says it, in HTML."""
    now = datetime.now().strftime("%H:%M:%S")
    title = f"smartclient {said(status['version'])} in process {said(status['pid'])}, as of {now}"
    parts = [HEAD, '<p id="stale"></p>', "<main>", f"<h1>{title}</h1>"]
    parts += [f'<p class="{"bad" if bad else "dim"}">{said(text)}</p>' for text, bad in headline(status)]
    if not status["services"]:
        parts.append('<p class="dim">No service has been called yet.</p>')
    for number, service in enumerate(services_in_order(status["services"])):
        parts += _service(service, number)
    return "".join([*parts, "</main>", FOOT])


def said(value: object) -> str:
    """A stranger's text: cut, as one line, escaped."""
    return escape(line(str(value)))


def _service(service: Mapping[str, Any], number: int) -> list[str]:
    parts = [f"<h2>{said(service['name'])}</h2>"]
    for text, bad in summary(service):
        parts.append(f'<p class="{"bad" if bad else "dim"}">{said(text)}</p>')
    instances = in_order(service["instances"])
    troubled = [one for one in instances if one["state"] != "usable" or one["why"]]
    usable = [one for one in instances if one["state"] == "usable" and not one["why"]]
    greatest = max((one["share"] for one in instances), default=0.0) or 1.0
    parts.append(_table([*troubled, *usable[:AT_ONCE]], greatest))
    if hidden := usable[AT_ONCE:]:
        parts.append(f'<details id="more-{number}"><summary>{len(hidden)} more usable instances</summary>')
        parts += [_table(hidden, greatest), "</details>"]
    return parts


def _table(instances: list[Mapping[str, Any]], greatest: float) -> str:
    heads = "".join(f"<th{_class(column)}>{column}</th>" for column in COLUMNS)
    return f"<table><tr>{heads}</tr>{''.join(_row(one, greatest) for one in instances)}</table>"


def _class(column: str) -> str:
    numbers = {"calls", "failed", "latency", "in flight", "idle", "weight"}
    classes = ["n"] * (column in numbers) + ["w"] * (column in {"in flight", "idle", "weight", "zone"})
    return f' class="{" ".join(classes)}"' if classes else ""


def _row(one: Mapping[str, Any], greatest: float) -> str:
    state = one["state"] if one["state"] in STATES else "unused"
    colour = "avoided" if state == "usable" and one["why"] else state
    width = 8 * one["share"] / greatest
    name = f"{one['id']} " if one["id"] else ""
    more = ", ".join(f"{key}={value}" for key, value in one["metadata"].items())
    rank = f" priority {one['priority']}" if one["priority"] else ""
    cells = (
        f'<td class="i" title="{said(name)}{said(more)}">{said(one["address"])}</td>',
        f'<td><span class="{colour}">{state}</span> <span class="dim">{said(reason(one))}</span></td>',
        f'<td class="n">{one["calls"]}</td>',
        f'<td class="n">{one["failures"] or ""}</td>',
        f'<td class="s"><span class="bar" style="width:{width:.2f}em"></span>{share(one["share"])}</td>',
        f'<td class="n">{"" if one["latency"] is None else duration(one["latency"])}</td>',
        f'<td class="n w">{one["in_flight"] or ""}</td>',
        f'<td class="n w">{one["connections"][0] or ""}</td>',
        f'<td class="n w">{one["weight"]:g}</td>',
        f'<td class="z w">{said(one["zone"] or "")}{rank}</td>',
    )
    out = ' class="out"' if state in OUT else ""
    return f"<tr{out}>{''.join(cells)}</tr>"
