"""The scripts of a release, on a copy of the files that they change."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common import __version__
from lab.processes import ROOT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in ("common", "docs", "k8s", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    for document in ROOT.glob("*.md"):
        shutil.copy(document, tmp_path)
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_version_is_set_everywhere_but_in_the_changelog(copy: Path) -> None:
    ended = run(copy, sys.executable, "scripts/version_set.py", "91.2.3")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "not changed" not in ended.stdout
    assert '__version__ = "91.2.3"' in (copy / "common/__init__.py").read_text()
    assert "TAG=91.2.3" in (copy / "README.md").read_text()
    for overlay in copy.glob("k8s/overlays/*/kustomization.yaml"):
        assert "newTag: 91.2.3" in overlay.read_text()
        assert f"newTag: {__version__}" not in overlay.read_text()
    assert (copy / "CHANGELOG.md").read_text() == (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("version", ["", "1.2", "v1.2.3", "1.2.3-rc1", "1.2.3 "])
def test_a_malformed_version_is_refused_and_changes_nothing(copy: Path, version: str) -> None:
    ended = run(copy, sys.executable, "scripts/version_set.py", version)
    assert (ended.returncode, ended.stderr) == (2, f"expected a version such as 1.2.3, got {version!r}\n")
    assert f'__version__ = "{__version__}"' in (copy / "common/__init__.py").read_text()


def test_the_notes_of_a_release_are_its_section_of_the_changelog(copy: Path) -> None:
    changelog = copy / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\n## [2.0.0] - 2030-01-02\n\n- two\n\n## [1.0.0] - 2029-01-02\n\n- one\n")
    assert run(copy, "sh", "scripts/release_notes.sh", "2.0.0").stdout == "\n- two\n"
    ended = run(copy, "sh", "scripts/release_notes.sh", "3.0.0")
    assert (ended.returncode, ended.stderr) == (1, "CHANGELOG.md has no section for version 3.0.0\n")
