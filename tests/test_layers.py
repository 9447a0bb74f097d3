"""Layers point one way, and only few modules know an HTTP library (DESIGN.md §5)."""

from __future__ import annotations

import ast
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "smartclient"
# Each may import what stands before it, and its own floor.
FLOORS = [
    {"support"},
    {"instance", "node", "errors", "events", "reports", "inherited", "statuses"},
    {"balancers", "health", "retry", "topology", "limits"},
    {"flavour"},
    {"policy", "faults"},
    {"services"},
    {"calls"},
    {"connections"},
    {"status"},
    {"config"},
    {"transport"},
    {"client", "middleware", "prometheus", "opentelemetry"},
    {"httpx2"},
    {"testing"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
# Beside the floors: knows nouns and support only.
DISCOVERY = {"support", "instance", "errors", "events"}
HTTP = {"httpx", "httpcore", "httpx2", "httpcore2", "h11"}
MAY_KNOW_HTTP = {
    "client",
    "transport",
    "connections",
    "flavour",
    "errors",
    "httpx2",
    "testing",
    "cli/demo",
    "cli/call",
    "cli/top",
    "discovery/http",
    "discovery/http_client",
    "discovery/http_transport",
    "discovery/consul/source",
    "discovery/consul/agent",
    "discovery/consul/registration",
    "discovery/kubernetes/source",
    "discovery/xds/source",
    "discovery/etcd",
    "discovery/eureka",
    "discovery/nacos",
}


def modules() -> list[str]:
    return sorted(str(path.relative_to(PACKAGE).with_suffix("")) for path in PACKAGE.rglob("*.py"))


def imported(module: str) -> tuple[set[str], set[str]]:
    """The parts of this package, and the packages of others, that a module imports at run time."""
    path = PACKAGE / f"{module}.py"
    ours, others = set(), set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            others.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            package = module.split("/")[:-1] if module.count("/") else []
            base = package[: len(package) - node.level + 1]
            target = [*base, *(node.module or "").split(".")] if node.module else base
            names = {alias.name for alias in node.names if (PACKAGE / f"{alias.name}.py").exists()} or {"__init__"}
            ours |= {target[0]} if target and target[0] else names
    return ours, others


def layer_of(part: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if part in floor)


@pytest.fixture(autouse=True)
def _undisturbed() -> Iterator[None]:
    """A collection in the middle of `ast.parse` may upset its count of recursions (CPython 3.11, gh-106905)."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("module", modules())
def test_layers(module: str) -> None:
    part = module.split("/")[0]
    ours, others = imported(module)
    ours.discard(part)
    if part == "discovery":
        assert ours <= DISCOVERY
    elif part != "__init__":
        allowed = set().union(*FLOORS[: layer_of(part) + 1])
        if layer_of(part) >= layer_of("services"):
            allowed.add("discovery")
        assert ours <= allowed, f"{module} imports {sorted(ours - allowed)}"
    if part not in MAY_KNOW_HTTP and module not in MAY_KNOW_HTTP:
        assert not others & HTTP, f"{module} imports {sorted(others & HTTP)}"


def test_time_and_chance_are_arguments() -> None:
    """`time.monotonic()` and `random.…()` are called by nobody but drivers and watchers; others are handed them."""
    allowed = {
        "inherited",
        "support/gil_breaks",
        "transport/aio",
        "transport/race_threads",
        "transport/race_tasks",
        "transport/sync",
        "discovery/combined",
        "discovery/dns",
        "discovery/consul/source",
        "discovery/etcd",
        "discovery/eureka",
        "discovery/file",
        "discovery/http_client",
        "discovery/kubernetes/source",
        "discovery/watcher",
        "discovery/xds/source",
        "discovery/xds/stream",
        "discovery/zookeeper/source",
        "testing",
        "testing/demo_server",
        "cli/demo",
        "cli/call",
        "cli/top",
        "cli/resolve",
        "retry/retry_after",
        "status/socket",
    }
    for module in modules():
        tree = ast.parse((PACKAGE / f"{module}.py").read_text())
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        if module not in allowed:
            assert not {call for call in calls if call.startswith(("time.", "random."))} - {"random.uniform"}, module


# ---- a house in which nobody gets lost ----

MOST_AT_THE_TOP, MOST_LINES, MOST_BRANCHES, MOST_IN_A_MODULE = 17, 60, 20, 400
OLD_NAMES = {"ward", "roster", "breath", "guard", "turns", "look", "wire", "racers", "outgoing", "ambient", "window",
             "home", "spoil", "streak"}  # fmt: skip


def arrows() -> dict[str, set[str]]:
    """What each module imports, wherever in it the import stands, and for type checkers too."""
    names = {module.replace("/", "."): module for module in modules()}
    found: dict[str, set[str]] = {}
    for name, module in names.items():
        found[name] = set()
        package = name.split(".")[:-1]
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
                where = ".".join(part for part in base if part)
                for alias in node.names:
                    full = f"{where}.{alias.name}".lstrip(".")
                    options = (full, where, f"{where}.__init__".lstrip("."))
                    found[name] |= {next((one for one in options if one in names), name)} - {name}
    return found


def test_there_is_no_circle() -> None:
    left = arrows()
    while left:
        free = {name for name, targets in left.items() if not targets & left.keys()}
        assert free, f"in circles, or above them: {sorted(left)}"
        left = {name: targets for name, targets in left.items() if name not in free}


def test_the_top_is_small() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_AT_THE_TOP


def branches(function: ast.AST) -> int:
    count, left = 0, list(ast.iter_child_nodes(function))
    while left:
        node = left.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        count += isinstance(node, (ast.If, ast.For, ast.While, ast.AsyncFor, ast.ExceptHandler, ast.IfExp))
        count += 1 + len(node.ifs) if isinstance(node, ast.comprehension) else 0
        count += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
        left += ast.iter_child_nodes(node)
    return count


@pytest.mark.parametrize("module", modules())
def test_no_function_is_one_to_get_lost_in(module: str) -> None:
    text = (PACKAGE / f"{module}.py").read_text()
    assert text.count("\n") <= MOST_IN_A_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno + 1 <= MOST_LINES, node.name
            assert branches(node) <= MOST_BRANCHES, node.name


def test_old_names_are_gone() -> None:
    for module in modules():
        assert not set(module.split("/")) & OLD_NAMES, module
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                assert node.name.lower().strip("_") not in OLD_NAMES, f"{module}: {node.name}"


def test_importing_the_package_imports_what_is_used() -> None:
    code = "import sys, smartclient; print(sorted({'httpx', 'anyio', 'tenacity', 'consul'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tests_mirror_the_package() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    ours = {path.name for path in (PACKAGE.parent / "tests").iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert ours - folders == {"behaviour", "bench", "chaos", "kit", "live", "typing"}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def test_tests_leave_private_names_alone() -> None:
    """Only `kit/inside.py` names what is private; `_mounts` and the like are httpx's."""
    ours = {
        node.attr
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and private(node.attr)
        if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    } - {"_mounts"}
    found = []
    for path in Path(__file__).parent.rglob("*.py"):
        if "kit" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ours and ast.unparse(node.value) not in ("self", "cls"):
                found.append(f"{path.name}:{node.lineno}: {node.attr}")
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("smartclient"):
                found += [f"{path.name}:{node.lineno}: {one.name}" for one in node.names if private(one.name)]
    assert not found
