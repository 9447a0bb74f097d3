"""gunicorn's settings for each process of the shop, and what it does beside serving: the services register in Consul,
once, not once per worker.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from prometheus_client import multiprocess

from smartclient.discovery.consul import register

bind = f"127.0.0.1:{os.environ.get('SHOP_PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", "1"))
worker_class = "uvicorn_worker.UvicornWorker"
graceful_timeout = 5
control_socket_disable = True  # all of the shop would share one
raw_env = [f"SHOP_SERVICE={os.environ.get('SHOP_SERVICE', 'gateway')}"]

_registered = ExitStack()


def when_ready(server: Any) -> None:
    service = os.environ.get("SHOP_SERVICE", "gateway")
    if service != "gateway":
        _registered.enter_context(register(service, bind))


def on_exit(server: Any) -> None:
    _registered.close()


def child_exit(server: Any, worker: Any) -> None:
    """What a worker that has gone had in flight is no longer."""
    multiprocess.mark_process_dead(worker.pid)
