"""The documents: their commands exist, their links lead somewhere, their manifests build, what they repeat is true."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.routing import APIRoute

from caller.api import checks, messages, runs, targets
from caller.app import BROWSER_HEADERS
from caller.hop.outcome import Outcome
from caller.settings import Settings
from lab.processes import ROOT
from producer import routes
from tests.support.documents import DOCUMENTS, anchors, commands, fences, inline_code, links, mentioned, named, tokens
from tests.support.known_commands import GCLOUD_COMMANDS, fault_in, gcloud_command, gcloud_commands
from tests.support.manifests import validate

GUIDE = ROOT / "docs" / "guides" / "gke.md"
SECURITY = ROOT / "SECURITY.md"
API = ROOT / "docs" / "reference" / "api.md"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_and_anchors_lead_somewhere(document: Path) -> None:
    for link in links(document):
        path, _, anchor = link.partition("#")
        if "://" not in link:
            there = (document.parent / path).resolve() if path else document
            assert there.exists(), link
            assert not anchor or anchor in anchors(there), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_files_that_a_document_names_exist(document: Path) -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {".git", ".venv"}
    code = " ".join(token.content for token in tokens(document) if token.type in ("code_inline", "code_block", "fence"))
    for path in re.findall(r"(?<![\w/.:@-])((?:[\w.-]+/)+[\w.*/-]*)", code):
        if path.partition("/")[0] in folders:
            assert list(ROOT.glob(path.rstrip("./"))), path
    for name in re.findall(
        r"(?<![\w/.*-])((?:Dockerfile|Makefile)[\w.-]*|requirements[\w-]*\.\w+|[A-Z]+\.md)(?![\w/])", code
    ):
        assert (ROOT / name.rstrip(".")).exists(), name


def test_every_outcome_is_explained_and_has_causes() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\(../troubleshooting.md#(\w+)\)", API.read_text(), re.MULTILINE)
    assert rows == [(outcome, outcome) for outcome in Outcome]
    assert set(Outcome) <= anchors(TROUBLESHOOTING)


# Commands


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_commands_exist_and_take_their_flags(document: Path) -> None:
    faults = {f"{command.where}: {' '.join(command.words)}": fault_in(command.words) for command in commands(document)}
    faults |= {
        f"{command.where}: {' '.join(command.words)}": fault_in(command.words, group=True)
        for command in mentioned(document)
    }
    assert {line: fault for line, fault in faults.items() if fault} == {}


def test_the_documents_have_commands_of_each_tool() -> None:
    """If none were found, none could be wrong."""
    found = [command.words for document in DOCUMENTS for command in commands(document)]
    tools = [words[0] for words in found]
    assert tools.count("gcloud") > 60
    assert tools.count("kubectl") > 150
    assert tools.count("sample-caller") > 10
    assert tools.count("make") > 5


def test_gclouds_own_parser_accepts_every_command(tmp_path: Path) -> None:
    """It also checks required flags and arguments, and the form of values."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        return  # only the table is checked then; it was accepted by this parser
    lines = [words[1:] for document in DOCUMENTS for _, words in commands(document) if words[0] == "gcloud"]
    parsed = subprocess.run(
        [sys.executable, "-m", "tests.support.gcloud_parser", Path(gcloud).resolve().parent.parent / "lib"],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        timeout=100,
        cwd=ROOT,
        env={**os.environ, "CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false"},
    )
    assert (parsed.returncode, parsed.stderr) == (0, "")


def test_the_table_of_gcloud_commands_has_only_those_of_the_documents() -> None:
    found = [
        words[1:]
        for document in DOCUMENTS
        for _, words in (*commands(document), *mentioned(document))
        if words[0] == "gcloud"
    ]
    assert {gcloud_command(words) for words in found} - {None} == gcloud_commands().keys(), GCLOUD_COMMANDS.name


@pytest.mark.parametrize("document", [ROOT / "README.md", GUIDE], ids=named)
def test_the_sed_command_renames_the_images_of_every_overlay(document: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    (line,) = re.findall(r"^sed -i.*", document.read_text(), re.MULTILINE)
    environment = {**os.environ, "REPOSITORY": "us-docker.pkg.dev/PROJECT/REPOSITORY"}
    subprocess.run(["bash", "-euc", line], cwd=tmp_path, env=environment, timeout=60, check=True)
    for cluster in ("caller-cluster", "producer-cluster"):
        images = re.findall(r"image: (.*)", kustomized(tmp_path / "k8s" / "overlays" / cluster))
        assert images
        assert all(image.startswith("us-docker.pkg.dev/PROJECT/REPOSITORY/sample-") for image in images)


# Manifests


def kustomized(folder: Path) -> str:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    build = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60)
    assert (build.returncode, build.stderr) == (0, "")
    return build.stdout


MANIFESTS = [
    pytest.param(document, line, content, id=f"{named(document)}:{line}")
    for document in DOCUMENTS
    for line, content in fences(document, "yaml")
]


@pytest.mark.parametrize(("document", "line", "content"), MANIFESTS)
def test_a_manifest_is_valid_and_a_change_of_an_overlay_builds(
    document: Path, line: int, content: str, tmp_path: Path
) -> None:
    """What has no kind changes the overlay that is named last before it: patches are added, all else is replaced."""
    for manifest in yaml.safe_load_all(content):
        if "kind" in manifest:
            assert manifest["metadata"]["namespace"] == "istio-apps"
            validate_if_builtin(manifest)
            continue
        shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
        before = "\n".join(document.read_text().splitlines()[:line])
        overlay = tmp_path / "k8s" / "overlays" / re.findall(r"k8s/overlays/([\w-]+)/kustomization.yaml", before)[-1]
        kustomization = yaml.safe_load((overlay / "kustomization.yaml").read_text())
        patches = manifest.get("patches", [])
        kustomization |= manifest | {"patches": [*kustomization.get("patches", []), *patches]}
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        built = {result["kind"]: result for result in yaml.safe_load_all(kustomized(overlay))}
        for generator in manifest.get("configMapGenerator", []):
            data = built["ConfigMap"]["data"]
            assert {f"{key}={value}" for key, value in data.items()} > set(generator["literals"])
        for patch in patches:
            change = yaml.safe_load(patch["patch"])
            assert is_part(change, built[change["kind"]]), change["kind"]
        for result in built.values():
            validate_if_builtin(result)


def validate_if_builtin(manifest: dict[str, Any]) -> None:
    group = manifest["apiVersion"].rpartition("/")[0]
    if "." not in group or group in ("networking.k8s.io", "rbac.authorization.k8s.io"):
        validate(manifest)


def is_part(small: Any, large: Any) -> bool:
    """Whether every field of `small` has the same value in `large`; lists have the same length."""
    if isinstance(small, dict):
        return isinstance(large, dict) and all(key in large and is_part(small[key], large[key]) for key in small)
    if isinstance(small, list):
        return len(small) == len(large) and all(map(is_part, small, large))
    return bool(small == large)


# Facts that SECURITY.md repeats from the code


def test_the_policy_of_the_page_is_that_of_the_code() -> None:
    (policy,) = re.findall(r"^content-security-policy: (.*?)^```", SECURITY.read_text(), re.MULTILINE | re.DOTALL)
    assert " ".join(policy.split()) == BROWSER_HEADERS["content-security-policy"]
    for name in BROWSER_HEADERS.keys() - {"content-security-policy", "cache-control"}:
        assert f"`{name}: {BROWSER_HEADERS[name]}`" in SECURITY.read_text()


@pytest.mark.parametrize("document", [SECURITY, API], ids=named)
def test_every_endpoint_is_in_the_table(document: Path) -> None:
    for router in (messages.router, runs.router, targets.router, checks.router, routes.router):
        for route in router.routes:
            assert isinstance(route, APIRoute)
            assert f"| `{' '.join([*sorted(route.methods or ()), route.path])}` |" in document.read_text()


def test_the_limits_have_the_defaults_of_the_settings() -> None:
    rows = re.findall(r"^\|[^|]*\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \| ([^|]+) \|", SECURITY.read_text(), re.MULTILINE)
    units = {"": 1, "s": 1, "KiB": 1024, "MiB": 1024**2}
    compared = 0
    for names, defaults in rows:
        for name, default in zip(re.findall(r"`(\w+)`", names), defaults.split(", "), strict=False):
            number, unit = re.findall(r"^(\d+)(?: (s|KiB|MiB)\b)?", default)[0]
            field = Settings.model_fields[name.lower()]
            assert field.default == int(number) * units[unit] * (1000 if name.endswith("MILLIS") else 1), name
            compared += 1
    assert compared >= 10


def test_the_names_in_capitals_are_settings_or_in_the_code() -> None:
    code = "".join(path.read_text() for folder in ("common", "caller") for path in (ROOT / folder).rglob("*.py"))
    of_others = {"HTTP_PROXY", "SSL_CERT_FILE"}
    for name in re.findall(r"^([A-Z]+(?:_[A-Z]+)+)(?:=\d+)?$", "\n".join(inline_code(SECURITY)), re.MULTILINE):
        assert name in of_others or name.lower() in Settings.model_fields or re.search(rf"^{name} =", code, re.M), name
