"""The httpx project's own client tests, with our classes in place of httpx's.

They come with httpx's source distribution, got by pip (or lying in HTTPX_SOURCE); the version is the one installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import httpx
import pytest

CACHE = Path(__file__).parents[2] / ".cache" / "httpx"

PLUGIN = """
import httpx
import smartclient

discovery = {discovery}
if discovery is None:
    httpx.Client, httpx.AsyncClient = smartclient.Client, smartclient.AsyncClient
else:
    class Client(smartclient.Client):
        def __init__(self, **keywords):
            super().__init__(discovery, **keywords)

    class AsyncClient(smartclient.AsyncClient):
        def __init__(self, **keywords):
            super().__init__(discovery, **keywords)

    httpx.Client, httpx.AsyncClient = Client, AsyncClient
"""


@pytest.fixture(scope="session")
def source() -> Path:
    """httpx's source, its tests included."""
    given = os.environ.get("HTTPX_SOURCE")
    if given:
        return Path(given)
    home = CACHE / f"httpx-{httpx.__version__}"
    if not home.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        wanted = f"httpx=={httpx.__version__}"
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary",
            ":all:",
            wanted,
            "-d",
            CACHE,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            why = f"httpx's tests cannot be had: {done.stderr[-300:]}"
            if os.environ.get("CI"):
                pytest.fail(why)
            pytest.skip(why)
        with tarfile.open(next(CACHE.glob(f"httpx-{httpx.__version__}*.tar.gz"))) as archive:
            archive.extractall(CACHE, **({"filter": "data"} if sys.version_info >= (3, 12) else {}))  # type: ignore[arg-type]
    return home


@pytest.mark.parametrize("discovery", [None, {"orders": ["127.0.0.1:1"]}], ids=["no discovery", "other hosts"])
def test_httpx_client_tests_pass_with_ours(source: Path, tmp_path: Path, discovery: object) -> None:
    (tmp_path / "ours_for_theirs.py").write_text(PLUGIN.format(discovery=discovery))
    # Their marker "network" is for three tests that need a name server.
    ours = ["-p", "ours_for_theirs", "-p", "no:cacheprovider", "-m", "not network"]
    command = [sys.executable, "-m", "pytest", "-q", *ours, "tests/client"]
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = int(done.stdout.rsplit(" passed", 1)[0].split()[-1])
    assert passed > 300, done.stdout[-500:]
