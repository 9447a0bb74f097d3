from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_what_users_write_type_checks() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "tests/typing/api.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_types_of_the_package_are_complete() -> None:
    """As pyright sees them: what is inferred here may be inferred otherwise by other type checkers."""
    command = [sys.executable, "-m", "basedpyright", "--verifytypes", "smartclient", "--ignoreexternal", "--outputjson"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["typeCompleteness"]["completenessScore"] >= 0.95
