"""The version of this package: written once, in `smartclient/__init__.py`."""

from __future__ import annotations

import sys


def version() -> str:
    package = sys.modules[__name__.partition(".")[0]]
    return str(getattr(package, "__version__", ""))
