"""What keeps the layout true: who imports whom, what the locks say, what the documents repeat."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab.processes import ROOT
from observability.dashboard import dashboard

BELOW: dict[str, set[str]] = {
    "caller.target": set(),
    "caller.settings": {"caller.target"},
    "caller.hop": {"caller.target", "caller.settings"},
    "caller.explain": {"caller.target", "caller.settings", "caller.hop"},
    "caller.run": {"caller.target", "caller.settings", "caller.hop"},
    "caller.check": {"caller.target", "caller.settings", "caller.hop", "caller.explain"},
    "caller.api": {"caller.target", "caller.settings", "caller.hop", "caller.explain", "caller.check", "caller.run"},
    "caller.cli": {"caller.target", "caller.settings", "caller.hop", "caller.explain", "caller.check", "caller.run"},
    "caller.app": {"caller.settings", "caller.hop", "caller.explain", "caller.check", "caller.run", "caller.api"},
    "caller.__main__": {"caller.settings", "caller.cli", "caller.app"},
    "caller": set(),
    "common": set(),
    "producer": {"common"},
}
"""Room -> the rooms that it may import; all rooms of the caller may import `common`."""


def room_of(module: str) -> str:
    """`caller.hop.client` -> `caller.hop`, `common.logs` -> `common`."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "caller" else parts[0]


def imported_modules(path: Path) -> set[str]:
    """Modules that a file imports, also inside functions and for type checking."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if is_module(name) else node.module for name in names}
    return found


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def modules_of(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", modules_of("caller", "common", "producer"), ids=relative)
def test_an_arrow_points_down_only(path: Path) -> None:
    room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    allowed = BELOW[room] | {room} | ({"common"} if room.startswith("caller") else set())
    ours = {room_of(module) for module in imported_modules(path) if module.partition(".")[0] in OUR_PACKAGES}
    assert ours <= allowed


OUR_PACKAGES = {"caller", "common", "producer", "lab", "tests", "bench", "docs", "observability", "demo"}


@pytest.mark.parametrize("path", modules_of("lab", "bench", "docs", "observability"), ids=relative)
def test_no_feature_imports_tests(path: Path) -> None:
    assert "tests" not in {module.partition(".")[0] for module in imported_modules(path)}


@pytest.mark.parametrize(
    "lock", ["requirements.lock", "requirements-tracing.lock", "requirements-dev.lock", "bench/requirements.lock"]
)
def test_a_lock_has_a_hash_for_every_requirement_and_names_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    requirements = re.findall(r"^[a-z0-9]\S*==\S+.*\\\n    --hash=sha256:", text, re.MULTILINE)
    assert len(requirements) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE)) >= 8
    assert "://" not in text
    assert "--index-url" not in text


def test_each_lock_is_a_part_of_the_next() -> None:
    def pins(lock: str) -> set[str]:
        return set(re.findall(r"^([a-z0-9]\S*==\S+)", (ROOT / lock).read_text(), re.MULTILINE))

    assert pins("requirements.lock") < pins("requirements-tracing.lock") < pins("requirements-dev.lock")


def test_the_generated_parts_of_the_documents_are_up_to_date() -> None:
    documents = [str(path) for path in (ROOT / "docs").rglob("*.md") if "[[[cog" in path.read_text()]
    assert len(documents) > 4
    command = [sys.executable, "-m", "cogapp", "-I", ".", "--verbosity=0", "--check", "--diff", *documents]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, f"run `make docs`\n{checked.stdout}{checked.stderr}"


def test_the_grafana_dashboard_is_up_to_date() -> None:
    assert (ROOT / "observability" / "grafana-dashboard.json").read_text() == dashboard(), "run `make docs`"
