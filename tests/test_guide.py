"""The documents: their commands exist with the flags they are given, what they name is there, their manifests build.

`gcloud_flags.json` has the commands and flags of gcloud that they use, for machines without it; written anew by

    python -m tests.test_guide
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.routing import APIRoute

from caller.api.messages import router as caller_router
from caller.api.runs import router as run_router
from caller.app import BROWSER_HEADERS
from caller.settings import Settings
from lab.processes import ROOT
from producer.routes import router as producer_router
from tests.support.documents import (
    DOCUMENTS,
    Block,
    Command,
    anchors,
    blocks,
    commands,
    logical_lines,
    mentioned,
    named,
    prose,
)
from tests.support.known_commands import (
    FLAGS_TABLE,
    check,
    check_cli,
    check_gcloud,
    check_kubectl,
    flags_used,
    gcloud_folder,
    gcloud_tree,
    group_allowed,
    known_gcloud,
    tree_of_table,
)
from tests.support.manifests import validate

GUIDE = ROOT / "docs" / "gke.md"
SECURITY = ROOT / "SECURITY.md"

ALL_COMMANDS = [command for document in DOCUMENTS for command in commands(document)]
MENTIONED = [command for document in DOCUMENTS for command in mentioned(document)]


def of_tool(tool: str) -> list[Command]:
    return [command for command in ALL_COMMANDS if command.words[0] == tool]


def in_a_pod() -> Iterator[Command]:
    for command in of_tool("kubectl"):
        if "--" in command.words:
            yield Command(command.where, command.words[command.words.index("--") + 1 :])


IN_A_POD = list(in_a_pod())


def shown(command: Command) -> str:
    return f"{command.where} {' '.join(command.words)[:60]}"


def used_by_the_documents(tree: dict[str, Any]) -> dict[str, list[str]]:
    """Command → the flags that the documents give it."""
    used: dict[str, set[str]] = {}
    for command in [*of_tool("gcloud"), *MENTIONED]:
        if command.words[0] == "gcloud":
            with group_allowed():
                name = known_gcloud(command.words[1:], tree).name
                used.setdefault(name, set()).update(flags_used(command.words))
    return {name: sorted(flags) for name, flags in sorted(used.items())}


def test_the_table_has_what_the_documents_use_and_nothing_else() -> None:
    table = json.loads(FLAGS_TABLE.read_text())["commands"]
    assert table == used_by_the_documents(tree_of_table()), "python -m tests.test_guide writes it anew"


def test_the_installed_gcloud_agrees_with_the_table() -> None:
    tree = gcloud_tree() or tree_of_table()
    for name, flags in json.loads(FLAGS_TABLE.read_text())["commands"].items():
        assert set(flags) <= known_gcloud(tuple(name.split()), tree).flags.keys(), name


def parsed_by_gcloud(lines: list[tuple[str, ...]], config: Path) -> str:
    """What gcloud's own parser has against these lines, each without `gcloud`. Where it is not installed, nothing."""
    folder = gcloud_folder()
    if folder is None:
        return ""
    environment = {**os.environ, "CLOUDSDK_CONFIG": str(config), "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false"}
    asked = subprocess.run(
        [sys.executable, "-m", "tests.support.gcloud_parser", folder / "lib"],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        timeout=100,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert asked.returncode == 0 or asked.stderr
    return asked.stderr if asked.returncode else ""


def test_gclouds_own_parser_takes_every_command(tmp_path: Path) -> None:
    """Required flags and arguments are there too, and values have their form."""
    assert parsed_by_gcloud([command.words[1:] for command in of_tool("gcloud")], tmp_path) == ""


def test_gclouds_own_parser_refuses_a_command_without_a_required_flag(tmp_path: Path) -> None:
    refused = parsed_by_gcloud([("artifacts", "repositories", "create", "sample", "--location", "x")], tmp_path)
    assert gcloud_folder() is None or "argument --repository-format: Must be specified" in refused


@pytest.mark.parametrize("tree", [gcloud_tree, tree_of_table], ids=["installed", "table"])
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("gcloud container fleet memberships list --projekt p", "no flag --projekt"),
        ("gcloud container fleet multi-cluster-service enable", "no command 'multi-cluster-service'"),
        ("gcloud container fleet multi-cluster-services", "is a group"),
    ],
)
def test_a_misspelt_gcloud_command_or_flag_is_found(tree: Any, line: str, complaint: str) -> None:
    with pytest.raises(LookupError, match=complaint):
        check_gcloud(tuple(line.split()), tree() or tree_of_table())


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("kubectl --context caller-cluster -n istio-apps gett pods", "no command"),
        ("kubectl config renam-context a b", "no command"),
        ("kubectl --context caller-cluster get pods --namespce istio-apps", "no flag --namespce"),
        ("kubectl --contxt caller-cluster get pods", "no flag --contxt"),
        ("kubectl rollout restart deploy/x --timeout=1s", "no flag --timeout"),
    ],
)
def test_a_misspelt_kubectl_command_or_flag_is_found(line: str, complaint: str) -> None:
    with pytest.raises(LookupError, match=complaint):
        check_kubectl(tuple(line.split()))


FOLDERS = sorted(
    {
        words[words.index("-k") + 1] if "-k" in words else words[2]
        for command in of_tool("kubectl")
        if "-k" in (words := command.words) or words[1] == "kustomize"
    }
)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_that_is_applied_can_be_built(folder: str) -> None:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    assert "kind:" in built(ROOT / folder)


def built(folder: Path) -> str:
    build = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
    assert (build.returncode, build.stderr) == (0, "")
    return build.stdout


def test_a_misspelt_option_of_the_cli_is_found() -> None:
    with pytest.raises(LookupError, match="no option --targt"):
        check_cli(("sample-caller", "check", "--targt", "x"))


@pytest.mark.parametrize("command", [*ALL_COMMANDS, *IN_A_POD], ids=shown)
def test_a_command_exists_and_takes_its_flags(command: Command) -> None:
    check(command)


@pytest.mark.parametrize("command", MENTIONED, ids=shown)
def test_a_command_that_is_mentioned_exists(command: Command) -> None:
    """A group of commands may be mentioned as well."""
    with group_allowed():
        check(command)


def test_the_command_that_names_the_images_does(tmp_path: Path) -> None:
    """The guide's own `sed` line is run, on a copy."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    lines = [line for block in blocks(GUIDE) for _, line in logical_lines(block) if line.startswith("sed ")]
    assert len(lines) == 1
    environment = {**os.environ, "REPOSITORY": "region-docker.pkg.dev/project/repository"}
    subprocess.run(["bash", "-euc", lines[0]], cwd=tmp_path, env=environment, timeout=60, check=True)
    for place in ("caller-cluster", "producer-cluster"):
        images = re.findall(r"image: (.*)", built(tmp_path / "k8s" / "overlays" / place))
        assert images
        for image in images:
            assert image.startswith("region-docker.pkg.dev/project/repository/sample-"), image


MANIFESTS = [block for document in DOCUMENTS for block in blocks(document) if block.language == "yaml"]


@pytest.mark.parametrize("block", MANIFESTS, ids=lambda block: f"{named(block.document)}:{block.line}")
def test_a_manifest_in_a_document_is_valid_and_a_change_of_an_overlay_builds(block: Block, tmp_path: Path) -> None:
    """What has no kind changes the overlay that was named last: patches are added, all else replaced."""
    for manifest in yaml.safe_load_all("\n".join(block.lines)):
        if "kind" in manifest:
            assert manifest["apiVersion"]
            assert manifest["metadata"]["namespace"] == "istio-apps"
            if is_of_kubernetes(manifest):
                validate(manifest)
            continue
        if not shutil.which("kubectl"):
            pytest.skip("kubectl is not installed")
        shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
        before = "\n".join(block.document.read_text().splitlines()[: block.line])
        overlay = tmp_path / "k8s" / "overlays" / re.findall(r"k8s/overlays/([\w-]+)/kustomization.yaml", before)[-1]
        kustomization = overlay / "kustomization.yaml"
        whole = yaml.safe_load(kustomization.read_text())
        assert set(manifest) <= {"components", "patches", "configMapGenerator"}
        whole |= manifest | {"patches": [*whole.get("patches", []), *manifest.get("patches", [])]}
        kustomization.write_text(yaml.safe_dump(whole))
        results = {result["kind"]: result for result in yaml.safe_load_all(built(overlay))}
        for generator in manifest.get("configMapGenerator", []):
            assert {f"{key}={value}" for key, value in results["ConfigMap"]["data"].items()} > set(
                generator["literals"]
            )
        for patch in manifest.get("patches", []):
            change = yaml.safe_load(patch["patch"])
            assert is_part(change, results[change["kind"]]), change["kind"]
        for result in filter(is_of_kubernetes, results.values()):
            validate(result)


def is_of_kubernetes(manifest: dict[str, Any]) -> bool:
    """Whether the kind is Kubernetes' own."""
    group = manifest["apiVersion"].rpartition("/")[0]
    return "." not in group or group in ("networking.k8s.io", "rbac.authorization.k8s.io")


def is_part(small: Any, large: Any) -> bool:
    """Every field of `small` is so in `large`; lists are compared whole, but for fields that only `large` has."""
    if isinstance(small, dict):
        return isinstance(large, dict) and all(key in large and is_part(small[key], large[key]) for key in small)
    if isinstance(small, list):
        return len(small) == len(large) and all(map(is_part, small, large))
    return bool(small == large)


# what SECURITY.md repeats from the code


def test_the_policy_of_the_page_is_that_of_the_code() -> None:
    (shown_policy,) = re.findall(r"^content-security-policy: (.*?)^```", SECURITY.read_text(), re.MULTILINE | re.DOTALL)
    assert " ".join(shown_policy.split()) == BROWSER_HEADERS["content-security-policy"]
    for name in BROWSER_HEADERS.keys() - {"content-security-policy", "cache-control"}:
        assert f"`{name}: {BROWSER_HEADERS[name]}`" in SECURITY.read_text()


def test_every_endpoint_is_in_the_table() -> None:
    for router in (caller_router, run_router, producer_router):
        for route in router.routes:
            assert isinstance(route, APIRoute)
            assert f"| `{' '.join([*sorted(route.methods or ()), route.path])}` |" in SECURITY.read_text()


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
    for name in re.findall(r"`([A-Z]+(?:_[A-Z]+)+)(?:=\d+)?`", SECURITY.read_text()):
        assert name in of_others or name.lower() in Settings.model_fields or re.search(rf"^{name} =", code, re.M), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_relative_links_and_anchors_lead_somewhere(document: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", document.read_text())
    for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        there = (document.parent / path).resolve() if path else document
        assert there.exists(), link
        if anchor:
            assert anchor in anchors(there), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_files_that_a_document_names_exist(document: Path) -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {".git", ".venv"}
    code = " ".join(re.findall(r"`([^`\n]+)`", prose(document)))
    code += " " + " ".join(line for block in blocks(document) for line in block.lines)
    for path in re.findall(r"(?<![\w/.:@-])((?:[\w.-]+/)+[\w.*/-]*)", code):
        if path.partition("/")[0] in folders:
            assert list(ROOT.glob(path.rstrip("./"))), path
    for name in re.findall(r"(?<![\w/.*-])((?:Dockerfile|Makefile|requirements)[\w.-]*|[A-Z]+\.md)(?![\w/])", code):
        assert (ROOT / name.rstrip(".")).exists(), name


def test_the_documents_have_commands_to_look_at() -> None:
    """What finds nothing cannot fail."""
    assert len(of_tool("gcloud")) > 40
    assert len(of_tool("kubectl")) > 100
    assert {named(document) for document in DOCUMENTS} >= {"README.md", "SECURITY.md", "docs/gke.md"}
    assert {command.where.partition(":")[0] for command in of_tool("gcloud")} >= {"docs/gke.md", "SECURITY.md"}
    assert len([command for command in IN_A_POD if command.words[0] == "sample-caller"]) > 5
    assert len(MANIFESTS) > 3


def main() -> int:
    tree, folder = gcloud_tree(), gcloud_folder()
    if tree is None or folder is None:
        sys.stderr.write("gcloud is not installed\n")
        return 1
    table = {"gcloud": (folder / "VERSION").read_text().strip(), "commands": used_by_the_documents(tree)}
    FLAGS_TABLE.write_text(json.dumps(table, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
