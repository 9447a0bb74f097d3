"""`smartclient schema`: the JSON Schema of configuration files."""

from __future__ import annotations

import json

from ..config import schema


def run_schema() -> int:
    print(json.dumps(schema(), indent=1))
    return 0
