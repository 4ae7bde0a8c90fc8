"""The images and compose.yaml, built and run by a real container engine.

The images stay behind as `sample-caller:test` and `sample-producer:test`, as the cache of the next run.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from caller.settings import Settings as CallerSettings
from producer.settings import Settings as ProducerSettings

ROOT = Path(__file__).parent.parent
BASE_IMAGE = "docker.io/library/python:3.13-slim"
PROJECT = "sample-test"
OF_PROJECT = f"--filter=label=io.podman.compose.project={PROJECT}"
SERVICES = ["caller", "producer"]
# As the manifests run it: nothing writable, no privilege, not root.
RESTRICTED = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges"]

pytestmark = pytest.mark.timeout(600)


def run(*command: str, timeout: float = 60, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, env=os.environ | environment, cwd=ROOT
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def container_engine() -> str:
    if not shutil.which("podman"):
        pytest.skip("podman is not installed")
    if subprocess.run(["podman", "image", "exists", BASE_IMAGE], check=False).returncode != 0:
        pytest.skip(f"no image {BASE_IMAGE}: pull it, or run scripts/make_base_image.sh")
    trial = subprocess.run(["podman", "run", "--rm", BASE_IMAGE, "true"], capture_output=True, text=True, check=False)
    if trial.returncode != 0:
        pytest.skip(f"podman cannot run a container here: {trial.stderr.strip()}")
    return "podman"


@pytest.fixture(scope="module")
def images(container_engine: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Both images, built as the Dockerfiles say, with the pip settings of this machine."""
    pip = {name.removeprefix("PIP_").lower(): value for name, value in os.environ.items() if name.startswith("PIP_")}
    pip_conf = tmp_path_factory.mktemp("pip") / "pip.conf"
    pip_conf.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in pip.items())]))
    shared = [str(path) for path in (pip.get("cert"), pip.get("find_links")) if path and Path(path).exists()]
    volumes = [f"--volume={path}:{path}:ro" for path in shared] + [f"--volume={pip_conf}:/etc/pip.conf:ro"]
    tags = {service: f"sample-{service}:test" for service in SERVICES}
    for service, tag in tags.items():
        build = [container_engine, "build", "--network=host", "--build-arg=VERSION=test"]
        build += [f"--build-arg=PYTHON_IMAGE={BASE_IMAGE}", *volumes]
        run(*build, f"--file=Dockerfile.{service}", f"--tag={tag}", ".", timeout=500)
    return tags


@contextmanager
def running(image: str, *options: str) -> Iterator[tuple[str, str]]:
    """A container and the URL of its port; gone at the end, whatever happened."""
    name = run(
        "podman", "run", "--detach", "--publish=127.0.0.1::8080", "--env=GCE_METADATA_HOST=none", *options, image
    )
    try:
        yield name, f"http://{run('podman', 'port', name, '8080')}"
    finally:
        run("podman", "rm", "--force", "--time=0", name)


def in_image(image: str, *command: str) -> str:
    return run("podman", "run", "--rm", *RESTRICTED, f"--entrypoint={command[0]}", image, *command[1:])


def until_ready(url: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{url}/actuator/health/readiness", timeout=1):
                return
        except OSError as not_yet:
            if time.monotonic() > deadline:
                raise AssertionError(f"{url} is not ready after {seconds} s") from not_yet
            time.sleep(0.01)


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.status == 200
        answer: dict[str, Any] = json.load(reply)
        return answer


def test_the_two_dockerfiles_differ_only_in_the_name_of_the_service() -> None:
    caller, producer = ((ROOT / f"Dockerfile.{service}").read_text() for service in SERVICES)
    assert caller.replace("caller", "producer").removesuffix('CMD ["serve"]\n') == producer


def test_every_variable_of_compose_is_a_setting() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        settings = CallerSettings if name == "caller" else ProducerSettings
        assert service.get("environment", {}).keys() <= {field.upper() for field in settings.model_fields}, name


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_runs_as_user_1000(images: dict[str, str], service: str) -> None:
    assert run("podman", "image", "inspect", "--format={{.Config.User}}", images[service]) == "1000:1000"
    assert in_image(images[service], "id", "-u") == "1000"


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_common_and_one_service(images: dict[str, str], service: str) -> None:
    assert in_image(images[service], "ls", "/app").split() == sorted(["bin", "common", service, "venv"])
    assert in_image(images[service], "ls", "/app/bin").split() == [f"sample-{service}"]


@pytest.mark.parametrize("service", SERVICES)
def test_an_environment_holds_no_build_tools(images: dict[str, str], service: str) -> None:
    ask = "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"
    installed = set(in_image(images[service], "/app/venv/bin/python3", "-c", ask).split())
    assert "fastapi" in installed
    assert not installed & {"pip", "setuptools", "wheel", "pbr", "hatchling", "uv", "pytest"}


@pytest.mark.parametrize("service", SERVICES)
def test_every_module_is_compiled_and_none_can_be_changed(images: dict[str, str], service: str) -> None:
    look = """
import os
from importlib.util import cache_from_source
from pathlib import Path
modules = [p for p in Path("/app").rglob("*.py") if "venv" not in p.parts]
print(len(modules))
for path in modules:
    if not Path(cache_from_source(path)).exists():
        print("not compiled:", path)
for path in Path("/app").rglob("*"):
    if not path.is_symlink() and os.access(path, os.W_OK):
        print("writable:", path)
"""
    # Not read-only here: the modes of the files must forbid it by themselves.
    seen = run("podman", "run", "--rm", "--entrypoint=/app/venv/bin/python3", images[service], "-c", look)
    assert int(seen.split()[0]) > 10
    assert seen.splitlines()[1:] == []


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_names_itself_and_its_version(images: dict[str, str], service: str) -> None:
    labels = json.loads(run("podman", "image", "inspect", "--format={{json .Config.Labels}}", images[service]))
    assert labels["org.opencontainers.image.title"] == f"sample-{service}"
    assert labels["org.opencontainers.image.version"] == "test"


@pytest.mark.parametrize("service", SERVICES)
def test_a_restricted_container_is_ready_within_two_seconds(images: dict[str, str], service: str) -> None:
    """The best of three, from `podman run` to the first 200: other work on the machine is not the image's fault.

    On a machine on which a container takes a second to import the libraries, twice as long as that.
    """
    seconds, imports = [], []
    for _ in range(3):
        begin = time.monotonic()
        in_image(images[service], "/app/venv/bin/python3", "-c", "import fastapi, uvicorn, httpx")
        imports.append(time.monotonic() - begin)
        begin = time.monotonic()
        with running(images[service], *RESTRICTED) as (_, url):
            until_ready(url, 60)
            seconds.append(time.monotonic() - begin)
    assert min(seconds) < max(2, 2 * min(imports)), (seconds, imports)


@pytest.mark.parametrize("service", SERVICES)
def test_sigterm_ends_a_container_with_status_0(images: dict[str, str], service: str) -> None:
    with running(images[service], *RESTRICTED, "--env=DRAIN_SECONDS=1") as (name, url):
        until_ready(url)
        assert in_container(name, "cat", "/proc/1/comm") == "python3", "a shell in between would keep the signal"
        begin = time.monotonic()
        run("podman", "kill", "--signal=TERM", name)
        assert run("podman", "wait", name) == "0"
        assert 1 <= time.monotonic() - begin < 5


def in_container(name: str, *command: str) -> str:
    return run("podman", "exec", name, *command)


def test_the_command_of_the_caller_is_on_the_path(images: dict[str, str]) -> None:
    with running(images["caller"], *RESTRICTED) as (name, _):
        assert "serve" in in_container(name, "sample-caller", "--help")


@dataclass
class TwoClusters:
    """compose.yaml under way: the caller of one cluster, and a producer of the other, as the host reaches them."""

    caller: str
    producer: str
    compose: Callable[..., str]

    def ack(self, **message: Any) -> dict[str, Any]:
        return post(f"{self.caller}/caller/messages", {"payload": "hello", "connection": "fresh"} | message)


@pytest.fixture(scope="module")
def two_clusters(images: dict[str, str]) -> Iterator[TwoClusters]:
    """compose.yaml, up; afterwards down, leaving nothing."""
    podman_compose = shutil.which("podman-compose", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not podman_compose:
        pytest.skip("podman-compose is not installed")
    caller_port, producer_port = free_ports(2)
    environment = {"VERSION": "test", "CALLER_PORT": str(caller_port), "PRODUCER_PORT": str(producer_port)}

    def compose(*arguments: str) -> str:
        return run(podman_compose, f"--project-name={PROJECT}", *arguments, timeout=120, **environment)

    clusters = TwoClusters(f"http://localhost:{caller_port}", f"http://localhost:{producer_port}", compose)
    try:
        compose("up", "--detach", "--no-build")
        until_ready(clusters.caller)
        until_ready(clusters.producer)
        eventually(lambda: clusters.ack()["statusCode"] == 200)
        yield clusters
    finally:
        compose("down", "--timeout=10")
    assert run("podman", "ps", "--all", "--quiet", OF_PROJECT) == ""
    assert run("podman", "network", "ls", "--quiet", OF_PROJECT) == ""


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [free.getsockname()[1] for free in sockets]


def eventually(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def composed_containers() -> list[str]:
    names = run("podman", "ps", OF_PROJECT, "--format={{.Names}}").split()
    assert len(names) == 5, names
    return names


def test_the_caller_calls_the_other_cluster_by_its_clusterset_name(two_clusters: TwoClusters) -> None:
    ack = two_clusters.ack()
    assert ack["statusCode"] == 200
    assert ack["received"] == "hello"
    assert ack["callerMetadata"]["clusterName"] == "caller-cluster"
    assert ack["producerMetadata"]["clusterName"] == "producer-cluster"
    assert ack["producerMetadata"]["region"] == "us-central1"


BOTH = {"sample-producer-v1-central-a", "sample-producer-v1-central-b"}


def test_fresh_connections_reach_both_producers_of_the_other_cluster(two_clusters: TwoClusters) -> None:
    eventually(lambda: pods(two_clusters, connection="fresh") == BOTH)


def test_a_reused_connection_stays_with_one_producer(two_clusters: TwoClusters) -> None:
    assert len(pods(two_clusters, connection="reuse")) == 1


def pods(clusters: TwoClusters, connection: str) -> set[str]:
    """The pods that answered ten calls; of a call that none answered, its outcome."""
    acks = [clusters.ack(connection=connection) for _ in range(10)]
    return {ack["producerMetadata"]["podName"] if ack["outcome"] == "ok" else ack["outcome"] for ack in acks}


def test_a_producer_can_be_called_from_the_host(two_clusters: TwoClusters) -> None:
    ack = post(f"{two_clusters.producer}/producer/messages", {"payload": "hello"})
    assert ack["metadata"]["clusterName"] == "producer-cluster"


@pytest.mark.usefixtures("two_clusters")
def test_the_preflight_and_a_run_pass_in_the_callers_container() -> None:
    caller = next(name for name in composed_containers() if "_caller_" in name or "-caller-" in name)
    report = json.loads(in_container(caller, "sample-caller", "check", "--json"))
    assert [target["outcome"] for target in report["targets"]] == ["ok", "ok"]
    assert {target["clusterName"] for target in report["targets"]} == {"producer-cluster", "caller-cluster"}
    printed = in_container(caller, "sample-caller", "run", "--count", "20", "--rate", "20", "--max-failures", "0")
    assert "20 of 20 calls sent, 20 ok" in printed


@pytest.mark.usefixtures("two_clusters")
def test_the_health_check_of_every_composed_container_passes() -> None:
    for name in composed_containers():
        run("podman", "healthcheck", "run", name)


@pytest.mark.usefixtures("two_clusters")
def test_composed_containers_are_as_restricted_as_pods() -> None:
    for name in composed_containers():
        assert "Read-only" in in_container(name, "sh", "-c", "touch /app/x 2>&1 || true"), name
        status = in_container(name, "cat", "/proc/1/status")
        assert "CapEff:\t0000000000000000" in status, name
        assert "NoNewPrivs:\t1" in status, name
        assert "Uid:\t1000" in status, name


def test_the_page_of_the_composed_caller_is_whole(two_clusters: TwoClusters) -> None:
    page = get(two_clusters.caller)
    files = re.findall(r'(?:src|href)="([^":#]+)"', page)
    scripts = [file for file in files if file.endswith(".js")]
    assert scripts
    assert any(file.endswith(".css") for file in files)
    seen = set(files)
    while scripts:
        imported = re.findall(r'from "\./([^"]+)"', get(f"{two_clusters.caller}/{scripts.pop().removeprefix('/')}"))
        scripts += set(imported) - seen
        seen |= set(imported)
    for file in seen:
        assert get(f"{two_clusters.caller}/{file.removeprefix('/')}"), file


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as reply:
        text: str = reply.read().decode("utf-8", "replace")
        return text


@pytest.mark.parametrize("service", ["caller", "producer-b"])
def test_stopping_takes_the_drain_and_little_more_and_loses_no_call(two_clusters: TwoClusters, service: str) -> None:
    """The better of two: other work on the machine is not the service's fault."""
    drain = float(
        yaml.safe_load((ROOT / "compose.yaml").read_text())["services"][service]["environment"]["DRAIN_SECONDS"]
    )
    [name] = [name for name in composed_containers() if f"_{service}_" in name or f"-{service}-" in name]
    seconds = []
    for _ in range(2):
        eventually(lambda: healthy(name) and two_clusters.ack()["statusCode"] == 200, 60)
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(two_clusters.ack, delay=700) for _ in range(4)]
            time.sleep(0.3)
            begin = time.monotonic()
            run("podman", "stop", "--time=10", name)
            seconds.append(time.monotonic() - begin)
            assert [call.result()["outcome"] for call in calls] == ["ok"] * 4
        assert run("podman", "inspect", "--format={{.State.ExitCode}}", name) == "0"
        two_clusters.compose("start", service)
        until_ready(two_clusters.caller, 60)
    eventually(lambda: healthy(name), 60)
    assert drain <= min(seconds) < drain + 2, seconds


def healthy(name: str) -> bool:
    return subprocess.run(["podman", "healthcheck", "run", name], capture_output=True, check=False).returncode == 0


def test_losing_producers_is_a_failover_then_a_refusal_and_losing_the_export_a_missing_name(
    two_clusters: TwoClusters,
) -> None:
    """What compose.yaml promises in its first lines, in its order."""
    # A producer that another test started again is among the endpoints only once its name resolves.
    eventually(lambda: pods(two_clusters, connection="fresh") == BOTH, 60)
    two_clusters.compose("stop", "producer-a")
    assert pods(two_clusters, connection="fresh") == {"sample-producer-v1-central-b"}
    two_clusters.compose("stop", "producer-b")
    eventually(lambda: two_clusters.ack()["outcome"] == "refused")
    two_clusters.compose("stop", "clusterset-ip")
    assert two_clusters.ack()["outcome"] == "dns_nxdomain"
    two_clusters.compose("start", "producer-a", "producer-b", "clusterset-ip")
    eventually(lambda: two_clusters.ack()["statusCode"] == 200)
