"""Metrics, dashboard and alerts, with a real Prometheus that scrapes a caller and two producers."""

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from caller.hop.outcome import Outcome
from lab.processes import CALLER, CENTRAL, PRODUCER, ROOT, WEST, Service, free_port, running
from observability.dashboard import dashboard

FOLDER = ROOT / "observability"
ALERTS = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads(dashboard())
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]
DOCUMENTED = re.findall(r"^    (\S.*(?:\n      \S.*)*)", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE)

FUNCTIONS = {"sum", "min", "max", "count", "rate", "increase", "histogram_quantile", "clamp_min", "label_replace"}
WORDS = FUNCTIONS | {"vector", "scalar", "and", "or", "unless", "offset", "by", "on", "group_left", "m"}
"""The words of PromQL that the queries use; `m` is a minute."""
GROUPING = r"\b(?:by|on|ignoring|without|group_left)\s*\(([^)]*)\)"


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is needed (apt-get install prometheus)")
    return found


class Scraped(NamedTuple):
    """Services, and the Prometheus that scrapes them."""

    caller: Service
    producer: Service
    url: str

    def get(self, path: str, **parameters: Any) -> Any:
        reply = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, trust_env=False)
        assert reply.status_code == 200, reply.text
        return reply.json()["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("query", query=expr)["result"]
        return found


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """A caller and two producers after calls of several outcomes, runs, and requests refused by MAX_IN_FLIGHT."""
    if shutil.which("prometheus") is None:
        pytest.skip("Prometheus is needed (apt-get install prometheus)")
    with ExitStack() as stack:
        producer = stack.enter_context(running(PRODUCER, **CENTRAL, POD_NAME="p-0", MAX_IN_FLIGHT="2"))
        own = stack.enter_context(running(PRODUCER, **WEST, POD_NAME="p-1"))
        # localhost instead of 127.0.0.1, so that calls have the phase dns.
        first, second = (service.url.replace("127.0.0.1", "localhost") for service in (producer, own))
        closed = f"http://127.0.0.1:{free_port()}"
        caller = stack.enter_context(
            running(CALLER, **WEST, POD_NAME="c-0", PRODUCER_URL=first, COMPARE_URLS=f"{second},{closed}")
        )
        targets = {"sample-caller": [caller], "sample-producer": [producer, own]}
        prometheus = stack.enter_context(prometheus_of(targets, tmp_path_factory.mktemp("prometheus")))
        scraped = Scraped(caller, producer, prometheus)
        call_all(caller, (first, second, closed))
        # A rate is the increase between two samples: the first must be there before the second calls.
        wait_for(scraped, 'count(caller_hop_duration_seconds_count{outcome="ok"}) >= 2')
        wait_for(scraped, 'sum(caller_hop_duration_seconds_count{outcome="refused"}) >= 2')
        wait_for(scraped, "sum(http_server_requests_refused_total{}) >= 1")
        call_all(caller, (first, second, closed))
        wait_for(scraped, 'sum(rate(caller_hop_duration_seconds_count{outcome="refused"}[1m])) > 0')
        wait_for(scraped, "sum(rate(http_server_requests_refused_total{}[1m])) > 0")
        wait_for(scraped, "sum(caller_run_scheduling_delay_seconds_count{}) == 40")
        yield scraped


def call_all(caller: Service, targets: tuple[str, str, str]) -> None:
    first, second, _ = targets
    url = f"{caller.url}/caller/messages"

    def call(target: str, **message: Any) -> None:
        body = {"payload": "test", "target": target, **message}
        assert httpx.post(url, json=body, trust_env=False, timeout=30).status_code == 200

    for target in targets:
        call(target)
        call(target, connection="fresh")
    call(first, responseCode=503)
    slow = [threading.Thread(target=call, args=(first,), kwargs={"delay": 2000}) for _ in range(4)]
    for thread in slow:
        thread.start()
    for thread in slow:
        thread.join(30)
    run = {"message": {"payload": "test"}, "targets": [first, second], "rate": 50, "count": 20}
    assert httpx.post(f"{caller.url}/caller/runs", json=run, trust_env=False, timeout=30).status_code == 200


def wait_for(scraped: Scraped, expr: str) -> None:
    deadline = time.monotonic() + 60
    while not scraped.query(expr):
        assert time.monotonic() < deadline, expr
        time.sleep(0.1)


@contextmanager
def prometheus_of(targets: dict[str, list[Service]], folder: Path) -> Iterator[str]:
    """A Prometheus that scrapes the services often, with the labels that `k8s/components` add; its URL."""
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(FOLDER / "alerts.yaml")],
        "scrape_configs": [
            {
                "job_name": app,
                "static_configs": [
                    {
                        "targets": [service.url.removeprefix("http://")],
                        "labels": {"app": app, "cluster": "lab", "namespace": "istio-apps", "pod": f"{app}-{number}"},
                    }
                    for number, service in enumerate(services)
                ],
            }
            for app, services in targets.items()
        ],
    }
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration))
    url = f"http://127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={path}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={url.removeprefix('http://')}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 30
        while not answers(f"{url}/-/ready"):
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline, (folder / "prometheus.log").read_text()
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(15)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def for_now(expr: str) -> str:
    """A query of the dashboard with the variables of Grafana replaced, or of the documents, over the last minute."""
    expr = expr.replace("$__rate_interval", "1m").replace("[5m]", "[1m]")
    return re.sub(r"\$(cluster|namespace|target)\b", ".*", expr)


# Queries


@pytest.mark.parametrize("expr", QUERIES)
def test_every_query_of_the_dashboard_has_a_result(scraped: Scraped, expr: str) -> None:
    found = scraped.query(for_now(expr))
    assert found, expr
    assert all(series["value"][1] != "NaN" for series in found if "quantile" not in expr), found
    assert any(series["value"][1] != "NaN" for series in found), found


@pytest.mark.parametrize("expr", DOCUMENTED)
def test_every_query_of_the_document_has_a_result(scraped: Scraped, expr: str) -> None:
    found = scraped.query(for_now(expr).replace(".*clusterset.*", ".*localhost.*"))
    assert found, expr


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_every_alert_is_a_query_that_prometheus_loaded(scraped: Scraped, rule: dict[str, Any]) -> None:
    scraped.query(rule["expr"])
    (group,) = scraped.get("rules")["groups"]
    (loaded,) = (loaded for loaded in group["rules"] if loaded["name"] == rule["alert"])
    assert loaded["health"] in ("ok", "unknown"), loaded


@pytest.mark.parametrize("expr", [*QUERIES, *(pytest.param(rule["expr"], id=rule["alert"]) for rule in ALERTS)])
def test_every_metric_and_label_of_a_query_is_scraped(scraped: Scraped, expr: str) -> None:
    metrics, grouped = vocabulary(expr)
    assert metrics
    known: set[str] = set(re.findall(r'label_replace\(.*?, "(\w+)"', expr, re.DOTALL))
    for name, labels in metrics:
        scraped_labels = set(scraped.get("labels", **{"match[]": name}))
        assert scraped_labels, f"{name} is not scraped"
        assert labels <= scraped_labels, f"{name} has no {labels - scraped_labels}"
        known |= scraped_labels
    assert grouped <= known, grouped - known


def vocabulary(expr: str) -> tuple[list[tuple[str, set[str]]], set[str]]:
    """The metrics of a query, each with the labels of its selector, and the labels that the query groups by."""
    selector = r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}"
    plain = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expr)  # a quoted string may contain anything
    metrics = [
        (name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels))) for name, labels in re.findall(selector, plain)
    ]
    grouped = {label.strip() for labels in re.findall(GROUPING, plain) for label in labels.split(",")}
    rest = re.sub(r"\[[^\]]*\]", "", re.sub(GROUPING, "", re.sub(selector, "", plain)))
    words = set(re.findall(r"[a-zA-Z_]\w*", rest))
    assert words <= WORDS, f"unknown words {words - WORDS}; write a metric with braces"
    return metrics, grouped


def test_an_unscraped_metric_or_a_missing_label_is_detected(scraped: Scraped) -> None:
    for expr in ("sum(caller_hops_total{})", 'up{color="red"}', "sum by (color) (up{})", "sum(caller_runs_active)"):
        with pytest.raises(AssertionError):
            test_every_metric_and_label_of_a_query_is_scraped(scraped, expr)


def test_the_variables_of_the_dashboard_are_labels_that_exist(scraped: Scraped) -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables.keys() == {"datasource", "cluster", "namespace", "target"}
    for name in ("cluster", "namespace", "target"):
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables[name]["query"]["query"]).groups()  # type: ignore[union-attr]
        assert scraped.get(f"label/{label}/values", **{"match[]": metric}), name


# Figures


def test_prometheus_has_the_answering_cluster_and_the_outcome_of_calls(scraped: Scraped) -> None:
    count = "sum by (peer_cluster, outcome, crossing) (caller_hop_duration_seconds_count{})"
    found = {tuple(sorted(series["metric"].values())): float(series["value"][1]) for series in scraped.query(count)}
    succeeded, failed = (
        found.pop(("ok", "producer-cluster", "region")),
        found.pop(("http_error", "producer-cluster", "region")),
    )
    assert succeeded + failed == 34
    assert failed > 2, "two are requested, and at least one is refused by MAX_IN_FLIGHT"
    assert found == {("caller-cluster", "none", "ok"): 24, ("refused", "unknown", "unknown"): 4}
    phases = "sum by (phase) (caller_hop_phase_duration_seconds_count{})"
    by_phase = {series["metric"]["phase"]: float(series["value"][1]) for series in scraped.query(phases)}
    assert by_phase.keys() == {"dns", "connect", "send", "wait", "body", "network"}
    calls = succeeded + failed + sum(found.values())
    assert by_phase["send"] == by_phase["wait"] == by_phase["body"] == by_phase["network"] == calls - 4
    assert 4 < by_phase["connect"] < calls


def test_requests_refused_by_max_in_flight_are_counted(scraped: Scraped) -> None:
    refused = {
        series["metric"]["pod"]: float(series["value"][1])
        for series in scraped.query('http_server_requests_refused_total{app="sample-producer"}')
    }
    assert refused["sample-producer-0"] >= 2
    assert refused["sample-producer-1"] == 0
    unmatched = 'http_server_request_duration_seconds_count{http_route="unmatched", http_response_status_code="503"}'
    assert scraped.query(f"sum({unmatched}) == sum(http_server_requests_refused_total{{}})")
    limits = scraped.query('http_server_active_requests_limit{app="sample-producer"}')
    assert sorted(series["value"][1] for series in limits) == ["1000", "2"]


def test_a_request_in_flight_and_a_drain_are_in_the_metrics() -> None:
    with running(PRODUCER, **CENTRAL, DRAIN_SECONDS="30", POD_NAMESPACE="ns") as producer:
        slow = threading.Thread(
            target=httpx.post,
            args=(f"{producer.url}/producer/messages",),
            kwargs={"json": {"payload": "slow", "delay": 3000}, "trust_env": False},
        )
        slow.start()
        wait_until_shown(producer, "http_server_active_requests 1.0")
        before = shown(producer)
        slow.join(10)
        producer.process.terminate()
        wait_until_shown(producer, "service_draining 1.0")
        after = shown(producer)
    assert {"service_ready 1.0", "service_draining 0.0"} <= before
    assert {"service_ready 0.0", "http_server_active_requests 0.0"} <= after
    (info,) = (line for line in after if line.startswith("target_info"))
    assert 'k8s_cluster_name="producer-cluster"' in info
    assert 'k8s_namespace_name="ns"' in info
    assert "k8s_pod_name" not in info, "unknown attributes are absent"


def shown(service: Service) -> set[str]:
    return set(httpx.get(f"{service.url}/metrics", trust_env=False).text.splitlines())


def wait_until_shown(service: Service, line: str) -> None:
    deadline = time.monotonic() + 10
    while line not in shown(service):
        assert time.monotonic() < deadline, line
        time.sleep(0.05)


# Names


def test_promtool_accepts_all_metrics(scraped: Scraped, promtool: str) -> None:
    for service in (scraped.caller, scraped.producer):
        text = httpx.get(f"{service.url}/metrics", trust_env=False).text
        checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_document_has_every_metric_with_its_labels_and_no_other(scraped: Scraped) -> None:
    text = (ROOT / "docs/reference/metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram|info) \| (.*?) \|", text, re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    exposed: set[str] = set()
    for service in (scraped.caller, scraped.producer):
        for line in shown(service):
            if (typed := re.match(r"# TYPE (\w+) (\w+)$", line)) and not typed[1].endswith("_created"):
                exposed.add(typed[1])
                assert documented[typed[1]][0] in (typed[2], "info")
            elif sample := re.match(r"(\w+?)(?:_bucket|_count|_sum|_created)?\{(.*)\} ", line):
                given, expected = set(re.findall(r'(\w+)="', sample[2])) - {"le"}, documented[sample[1]]
                assert given == expected[1] or expected[0] == "info", line
    assert exposed == documented.keys()
    explained = set(re.findall(r"`(\w+)`", text.partition("## Labels")[2].partition("## Questions")[0]))
    assert {label for _, labels in documented.values() for label in labels} <= explained
    info = {label for line in shown(scraped.caller) for label in re.findall(r'(\w+)="', line) if "target_info" in line}
    assert info <= explained


# Rules


def test_rules_are_valid(promtool: str) -> None:
    command = [promtool, "check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml"]
    checked = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_tests_of_the_alerts_pass(promtool: str) -> None:
    command = [promtool, "test", "rules", "alerts.test.yaml"]
    tested = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    tests = yaml.safe_load((FOLDER / "alerts.test.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in ALERTS}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_each_alert_has_a_summary_and_a_link_to_its_causes(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    document, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    failing = set(Outcome) - {Outcome.OK, Outcome.HTTP_ERROR, Outcome.CANCELLED}
    wanted = failing if anchor == "{{ $labels.outcome }}" else {anchor}
    assert wanted <= anchors((ROOT / document).read_text())


def anchors(text: str) -> set[str]:
    """The anchors of a document: explicit ones, and those that GitHub generates from headings."""
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return set(re.findall(r'<a id="([^"]+)">', text)) | {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
    }


def test_the_commands_of_the_readme_create_the_resources_of_prometheus_operators(tmp_path: Path) -> None:
    text = (FOLDER / "README.md").read_text()
    blocks = re.findall(r"^    \{ printf .*\n.*; \} \| kubectl -n istio-apps apply -f -$", text, re.MULTILINE)
    made = [yaml.safe_load(shell(block.rpartition("|")[0])) for block in blocks]
    assert [(one["apiVersion"], one["kind"]) for one in made] == [
        ("monitoring.coreos.com/v1", "PrometheusRule"),
        ("monitoring.googleapis.com/v1", "Rules"),
    ]
    assert all(one["spec"]["groups"][0]["rules"] == ALERTS for one in made)
    (replacing,) = re.findall(r"^    (sed -i .*) observability/alerts.yaml$", text, re.MULTILINE)
    copy = tmp_path / "alerts.yaml"
    shutil.copy(FOLDER / "alerts.yaml", copy)
    shell(f"{replacing} {copy}")
    rules = yaml.safe_load(copy.read_text())["groups"][0]["rules"]
    assert all(rule["annotations"]["runbook_url"].startswith("https://") for rule in rules)


def shell(command: str) -> str:
    return subprocess.run(
        ["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    ).stdout


def test_the_readme_has_every_alert() -> None:
    listed = re.findall(r"^\| `(Sample\w+)` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert listed == [rule["alert"] for rule in ALERTS]


# The dashboard


def test_every_panel_has_a_description_and_a_position_of_its_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & taken, f"{panel['title']} covers another"
        assert all(x < 24 for x, _ in cells), f"{panel['title']} is outside"
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))
