"""What keeps the layout true: who imports whom, what the locks say, what the documents repeat."""

import ast
import re
import subprocess
import sys

import pytest

from lab.processes import ROOT


def imports(folder: str) -> set[str]:
    """The top-level packages that the modules of a folder import."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize(
    ("folder", "others"), [("common", {"caller", "producer"}), ("caller", {"producer"}), ("producer", {"caller"})]
)
def test_common_imports_neither_service_and_the_services_never_each_other(folder: str, others: set[str]) -> None:
    assert imports(folder) & others == set()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-tracing.lock", "requirements-dev.lock"])
def test_a_lock_has_a_hash_for_every_requirement_and_names_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    requirements = re.findall(r"^[a-z0-9]\S*==\S+.*\\\n    --hash=sha256:", text, re.MULTILINE)
    assert len(requirements) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE)) > 20
    assert "://" not in text
    assert "--index-url" not in text


def test_each_lock_is_a_part_of_the_next() -> None:
    def pins(lock: str) -> set[str]:
        return set(re.findall(r"^([a-z0-9]\S*==\S+)", (ROOT / lock).read_text(), re.MULTILINE))

    assert pins("requirements.lock") < pins("requirements-tracing.lock") < pins("requirements-dev.lock")


def test_what_the_documents_repeat_from_the_code_is_as_the_code_says() -> None:
    command = [sys.executable, "-m", "docs.generate", "--check"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_every_link_in_the_documents_leads_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "k8s").rglob("*.md")):
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.relative_to(ROOT)}: {link}"
