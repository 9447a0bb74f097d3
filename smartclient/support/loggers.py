"""Our loggers: one for each subject, below "smartclient", so that an operator can turn one up or down.

    smartclient.call       calls that are lost (WARNING), retries (DEBUG)
    smartclient.health     ejections, failing services, panic, circuits (WARNING); what is well again (INFO)
    smartclient.discovery  trouble of sources (WARNING, again each minute); lists, and recovery (INFO)
    smartclient.config     a configuration that is wrong (ERROR), what it injects (WARNING), what it changes (INFO)

Each line is one readable sentence. Its fields are in `extra`, for structured logging.
"""

from __future__ import annotations

import logging
from typing import Any

logger: logging.Logger = logging.getLogger("smartclient")
CALL: logging.Logger = logging.getLogger("smartclient.call")
HEALTH: logging.Logger = logging.getLogger("smartclient.health")
DISCOVERY: logging.Logger = logging.getLogger("smartclient.discovery")
CONFIG: logging.Logger = logging.getLogger("smartclient.config")


def about(service: str, instance: object = None, **fields: Any) -> dict[str, Any]:
    """A line's `extra`. (Names of `LogRecord`'s own would raise KeyError: "args", "name", "message" …)"""
    said = {"service": service, **fields}
    if instance is not None:
        said["instance"] = str(instance)
    return said
