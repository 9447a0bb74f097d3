"""gunicorn's part of metrics in multiprocess mode:

    PROMETHEUS_MULTIPROC_DIR=/tmp/metrics gunicorn -c gunicorn.conf.py …

The folder must be there, and empty when gunicorn starts.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import multiprocess


def child_exit(server: Any, worker: Any) -> None:
    """What a worker that has gone had in flight is no longer."""
    multiprocess.mark_process_dead(worker.pid)
