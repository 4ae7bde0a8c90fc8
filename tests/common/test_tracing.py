"""Traces as a collector receives them: real services, OTLP over HTTP, and a small receiver."""

import gzip
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from caller.hop.phases import PHASES
from common.settings import ServiceSettings
from common.tracing import FLUSH_SECONDS
from lab.processes import CALLER, CENTRAL, PRODUCER, ROOT, WEST, Service, free_port, running
from tests.support.manifests import container_of, of_kind, with_components

TRACE_ID, BROWSER_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FROM_BROWSER = {
    "traceparent": f"00-{TRACE_ID}-{BROWSER_SPAN}-01",
    "tracestate": "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
    "baggage": "user=alice,session=a%20b;ttl=5",
}
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
NEVER = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}
KINDS = {WireSpan.SPAN_KIND_SERVER: "server", WireSpan.SPAN_KIND_CLIENT: "client"}


class Span(NamedTuple):
    """A received span."""

    service: str
    kind: str
    name: str
    trace_id: str
    span_id: str
    parent: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: list[tuple[str, dict[str, Any], int]]
    links: list[tuple[str, str]]
    failed: str | None
    """Text of the status ERROR; None for another status."""
    started: int
    ended: int


class Collector:
    """Receives spans at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Span] = []

    def wait_for(self, wanted: Callable[[list[Span]], bool], seconds: float = 20) -> list[Span]:
        deadline = time.monotonic() + seconds
        while not wanted(self.spans):
            assert time.monotonic() < deadline, self.spans
            time.sleep(0.02)
        return list(self.spans)

    def wait_for_hop(self) -> tuple[Span, Span, Span]:
        """The caller's server span, its client span and the producer's server span; there is no other."""
        spans = self.wait_for(lambda spans: len(spans) >= 3)
        assert len(spans) == 3
        server, client = (one(spans, "sample-caller", kind) for kind in ("server", "client"))
        return server, client, one(spans, "sample-producer", "server")


def one(spans: list[Span], service: str, kind: str) -> Span:
    (span,) = (span for span in spans if (span.service, span.kind) == (service, kind))
    return span


@contextmanager
def collecting() -> Iterator[Collector]:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
            collector.spans += spans_of(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def spans_of(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for sent in request.resource_spans:
        resource = values(sent.resource.attributes)
        for span in (span for scope in sent.scope_spans for span in scope.spans):
            yield Span(
                service=resource["service.name"],
                kind=KINDS.get(span.kind, "other"),
                name=span.name,
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent=span.parent_span_id.hex(),
                attributes=values(span.attributes),
                resource=resource,
                events=[(event.name, values(event.attributes), event.time_unix_nano) for event in span.events],
                links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                failed=span.status.message if span.status.code == Status.STATUS_CODE_ERROR else None,
                started=span.start_time_unix_nano,
                ended=span.end_time_unix_nano,
            )


def values(pairs: Any) -> dict[str, Any]:
    return {pair.key: value(pair) for pair in pairs}


def value(pair: KeyValue) -> Any:
    return getattr(pair.value, str(pair.value.WhichOneof("value")))


class Pair(NamedTuple):
    caller: Service
    producer: Service
    collector: Collector

    def call(self, message: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None) -> Any:
        return post(self.caller, message, headers)


def post(caller: Service, message: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None) -> Any:
    url = f"{caller.url}/caller/messages"
    reply = httpx.post(url, json={"payload": "test", **(message or {})}, headers=headers, trust_env=False, timeout=30)
    assert reply.status_code == 200
    return reply.json()


@contextmanager
def traced(**environment: str) -> Iterator[Pair]:
    """A caller and a producer that export their spans to one collector."""
    with ExitStack() as stack:
        collector = stack.enter_context(collecting())
        given = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **SOON, **environment}
        producer = stack.enter_context(
            running(PRODUCER, **{**CENTRAL, "POD_NAME": "sample-producer-v1-0", "POD_NAMESPACE": "istio-apps", **given})
        )
        caller = stack.enter_context(
            running(CALLER, **{**WEST, "POD_NAME": "sample-caller-v1-0", "PRODUCER_URL": producer.url, **given})
        )
        yield Pair(caller, producer, collector)


def request_line(service: Service) -> dict[str, Any]:
    """The log line of the first message."""
    return request_lines(service, 1)[0]


def request_lines(service: Service, number: int) -> list[dict[str, Any]]:
    """The log lines of the first messages."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        entries = [json.loads(line) for line in service.output.splitlines(keepends=True) if line.endswith("\n")]
        found = [entry for entry in entries if entry.get("route", "").endswith("/messages")]
        if len(found) >= number:
            return found[:number]
        time.sleep(0.02)
    raise AssertionError(service.output)


def trace_of_line(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(entry.get(f"logging.googleapis.com/{name}") for name in ("trace", "spanId", "trace_sampled"))


def test_browser_caller_and_producer_are_in_one_trace() -> None:
    with traced() as pair:
        hop = pair.call(headers=FROM_BROWSER)
        server, client, answering = pair.collector.wait_for_hop()
        lines = [request_line(service) for service in (pair.caller, pair.producer)]
    assert {span.trace_id for span in (server, client, answering)} == {TRACE_ID}
    assert (server.parent, client.parent, answering.parent) == (BROWSER_SPAN, server.span_id, client.span_id)
    assert (server.name, client.name, answering.name) == (
        *("POST /caller/messages", "POST /producer/messages"),
        "POST /producer/messages",
    )
    assert not any(span.failed for span in (server, client, answering))
    assert [(line["traceId"], *trace_of_line(line)) for line in lines] == [
        (TRACE_ID, TRACE_ID, server.span_id, True),
        (TRACE_ID, TRACE_ID, answering.span_id, True),
    ]
    received = {name: hop["producerHeaders"][name] for name in FROM_BROWSER}
    assert received == {name: [value] for name, value in FROM_BROWSER.items()} | {
        "traceparent": [f"00-{TRACE_ID}-{client.span_id}-01"]
    }
    assert hop["sentHeaders"]["traceparent"] == hop["producerHeaders"]["traceparent"]
    assert {change["change"] for change in hop["headerDiff"]["request"]} == {"same"}


def test_the_client_span_has_the_facts_of_the_hop() -> None:
    with traced() as pair:
        hop = pair.call({"delay": 50})
        server, client, answering = pair.collector.wait_for_hop()
        port = int(pair.producer.url.rpartition(":")[2])
    assert server.parent == ""
    assert client.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.full": f"{pair.producer.url}/producer/messages",
        "url.template": "/producer/messages",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": port,
        "network.protocol.version": "1.1",
        "caller.hop.outcome": "ok",
        "caller.hop.answered_by": "producer",
        "caller.hop.crossing": "region",
        "caller.hop.cross_cluster": True,
        "caller.hop.peer.cluster": "producer-cluster",
        "caller.hop.peer.zone": "us-central1-b",
        "caller.hop.peer.pod": "sample-producer-v1-0",
        "caller.hop.connection.reused": False,
    }
    phases = {name.removesuffix("Millis"): millis for name, millis in hop["phases"].items() if millis is not None}
    assert [name for name, _, _ in client.events] == [name for name in PHASES if name in phases]
    for name, attributes, at in client.events:
        assert attributes["caller.hop.phase.duration"] == pytest.approx(phases[name] / 1000)
        assert client.started <= at <= client.ended + 1_000_000  # the phases are rounded to µs
    assert (client.ended - client.started) / 1e6 >= hop["roundTripTimeMillis"] - 0.01, "and what was done before it"
    assert server.started <= client.started <= answering.started < client.ended <= server.ended


def test_a_resource_is_the_identity() -> None:
    with traced(OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=demo,cloud.region=from-the-variable") as pair:
        pair.call()
        server, _, answering = pair.collector.wait_for_hop()
        version = httpx.get(f"{pair.caller.url}/openapi.json", trust_env=False).json()["info"]["version"]
    common = {"service.version": version, "deployment.environment.name": "demo", "cloud.region": "from-the-variable"}
    assert (
        server.resource.items()
        >= {
            "service.name": "sample-caller",
            "k8s.cluster.name": "caller-cluster",
            "k8s.pod.name": "sample-caller-v1-0",
            "cloud.availability_zone": "us-west1-a",
            **common,
        }.items()
    )
    assert (
        answering.resource.items()
        >= {
            "service.name": "sample-producer",
            "k8s.cluster.name": "producer-cluster",
            "k8s.namespace.name": "istio-apps",
            "k8s.pod.name": "sample-producer-v1-0",
            "cloud.availability_zone": "us-central1-b",
            **common,
        }.items()
    )
    assert "k8s.namespace.name" not in server.resource, "unknown attributes are absent"


def test_the_identity_of_the_metadata_server_is_in_the_resource_and_the_log_line() -> None:
    document = {
        "instance": {"attributes": {"cluster-name": "gke-2"}, "zone": "projects/1/zones/europe-west1-b"},
        "project": {"projectId": "my-project"},
    }
    with metadata_server(document) as host, collecting() as collector:
        given = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "GCE_METADATA_HOST": host, **SOON}
        with running(PRODUCER, **given) as producer:
            url = f"{producer.url}/producer/messages"
            httpx.post(url, json={"payload": "test"}, headers=FROM_BROWSER, trust_env=False)
            (span,) = collector.wait_for(lambda spans: len(spans) == 1)
            httpx.post(url, json={"payload": "test"}, headers=FROM_BROWSER, trust_env=False)
            _, later = collector.wait_for(lambda spans: len(spans) == 2)
            first, second = request_lines(producer, 2)
    assert span.attributes["http.route"] == "/producer/messages"
    assert (
        later.resource.items()
        >= {
            "cloud.provider": "gcp",
            "cloud.platform": "gcp_kubernetes_engine",
            "cloud.account.id": "my-project",
            "cloud.availability_zone": "europe-west1-b",
            "k8s.cluster.name": "gke-2",
        }.items()
    )
    assert trace_of_line(second) == (f"projects/my-project/traces/{TRACE_ID}", later.span_id, True)
    assert trace_of_line(first)[1] == span.span_id


@contextmanager
def metadata_server(document: Mapping[str, Any]) -> Iterator[str]:
    """A GCE metadata server; its host:port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("metadata-flavor", "Google")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def test_a_failed_hop_is_a_failed_client_span_in_a_successful_request() -> None:
    with traced(CALL_TIMEOUT_SECONDS="3") as pair:
        for message in ({"responseCode": 503}, {"delay": 30_000}):
            pair.call(message)
        pair.collector.wait_for(lambda spans: len(spans) == 6)
        pair.producer.stop()
        pair.call()
        spans = pair.collector.wait_for(lambda spans: len(spans) == 8)
    clients = [span for span in spans if span.kind == "client"]
    assert [(span.attributes["error.type"], span.attributes["caller.hop.outcome"]) for span in clients] == [
        ("http_error", "http_error"),
        ("read_timeout", "read_timeout"),
        ("refused", "refused"),
    ]
    assert all(span.failed for span in clients)
    assert "refused" in (clients[2].failed or "").lower()
    assert [span.attributes.get("http.response.status_code") for span in clients] == [503, None, None]
    served = [span for span in spans if (span.service, span.kind) == ("sample-caller", "server")]
    assert [(span.failed, span.attributes["http.response.status_code"]) for span in served] == [(None, 200)] * 3
    answered = [span for span in spans if span.service == "sample-producer"]
    assert [(span.failed is None, span.attributes["http.response.status_code"]) for span in answered] == [
        (False, 503),
        (True, 499),
    ]


def test_a_cancelled_call_ends_its_span() -> None:
    with traced() as pair:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{pair.caller.url}/caller/messages",
                json={"payload": "test", "delay": 20000},
                trust_env=False,
                timeout=2,
            )
        server, client, answering = pair.collector.wait_for_hop()
    assert (client.attributes["caller.hop.outcome"], client.attributes["error.type"]) == ("cancelled", "cancelled")
    assert client.failed == "the client disconnected"
    assert [span.attributes["http.response.status_code"] for span in (server, answering)] == [499, 499]


def test_a_request_that_max_in_flight_refuses_has_a_span() -> None:
    with traced(MAX_IN_FLIGHT="1") as pair:
        url = f"{pair.producer.url}/producer/messages"
        slow = threading.Thread(
            target=httpx.post, args=(url,), kwargs={"json": {"payload": "slow", "delay": 4000}, "trust_env": False}
        )
        slow.start()
        deadline = time.monotonic() + 10
        while (
            "\nhttp_server_active_requests 1.0\n" not in httpx.get(f"{pair.producer.url}/metrics", trust_env=False).text
        ):
            assert time.monotonic() < deadline
        assert httpx.post(url, json={"payload": "test"}, headers=FROM_BROWSER, trust_env=False).status_code == 503
        slow.join(20)
        spans = pair.collector.wait_for(lambda spans: any(span.failed is not None for span in spans))
    refused = next(span for span in spans if span.failed is not None)
    assert (refused.trace_id, refused.attributes["http.response.status_code"]) == (TRACE_ID, 503)


def test_probes_and_scrapes_have_no_span() -> None:
    with traced() as pair:
        for service in (pair.caller, pair.producer):
            for path in ("/actuator/health/liveness", "/actuator/health/readiness", "/metrics", "/metrics?name[]=up"):
                assert httpx.get(f"{service.url}{path}", trust_env=False).status_code == 200
        pair.call()
        pair.collector.wait_for_hop()


def test_each_call_of_a_run_is_a_trace_of_its_own_with_a_link_to_the_run() -> None:
    with traced() as pair:
        run = {"message": {"payload": "test"}, "rate": 20, "count": 5}
        url = f"{pair.caller.url}/caller/runs"
        assert httpx.post(url, json=run, headers=FROM_BROWSER, trust_env=False, timeout=30).status_code == 200
        spans = pair.collector.wait_for(lambda spans: len(spans) >= 11)
    request = one(spans, "sample-caller", "server")
    clients = {span.span_id: span for span in spans if span.kind == "client"}
    assert (len(clients), len({span.trace_id for span in clients.values()})) == (5, 5)
    assert all(span.parent == "" and span.trace_id != TRACE_ID for span in clients.values())
    assert [span.links for span in clients.values()] == [[(TRACE_ID, request.span_id)]] * 5
    answering = [span for span in spans if span.service == "sample-producer"]
    assert {span.parent for span in answering} == clients.keys()
    assert all(clients[span.parent].trace_id == span.trace_id for span in answering)


def test_a_trace_that_is_not_sampled_is_propagated_and_not_exported() -> None:
    with traced() as pair:
        hop = pair.call(headers={"traceparent": f"00-{TRACE_ID}-{BROWSER_SPAN}-00"})
        pair.call()
        spans = pair.collector.wait_for(lambda spans: len(spans) >= 3)
        entry = request_line(pair.caller)
    assert TRACE_ID not in {span.trace_id for span in spans}
    (received,) = hop["producerHeaders"]["traceparent"]
    assert received.startswith(f"00-{TRACE_ID}-")
    assert received.endswith("-00")
    assert trace_of_line(entry)[::2] == (TRACE_ID, False)


def test_the_last_spans_are_exported_when_the_service_stops() -> None:
    with traced(**NEVER) as pair:
        pair.call(headers=FROM_BROWSER)
        assert pair.collector.spans == []
        assert (pair.caller.stop(signal.SIGTERM), pair.producer.stop(signal.SIGTERM)) == (0, 0)
        pair.collector.wait_for_hop()


LONG_TIMEOUT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "60"}
"""Without a limit of its own, the service would wait for the exporter this long."""


def test_an_unreachable_collector_delays_neither_a_call_nor_the_shutdown() -> None:
    with traced(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}", **LONG_TIMEOUT) as pair:
        assert {pair.call()["outcome"] for _ in range(20)} == {"ok"}
        time.sleep(0.3)  # for an export or two, which fail
        assert pair.call()["outcome"] == "ok"
        assert (pair.caller.stop(timeout=20), pair.producer.stop(timeout=20)) == (0, 0)


def test_a_silent_collector_delays_neither_a_call_nor_the_shutdown() -> None:
    with silent_port() as port, traced(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", **LONG_TIMEOUT) as pair:
        assert {pair.call()["outcome"] for _ in range(20)} == {"ok"}
        assert pair.caller.stop(timeout=20) == 0
        assert f"the last spans were not exported within {FLUSH_SECONDS:g} s" in pair.caller.output


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that accepts connections and does not answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield server.getsockname()[1]


# Disabled, and invalid settings


def test_without_traces_the_trace_context_is_propagated_unchanged() -> None:
    with running(PRODUCER, **CENTRAL) as producer, running(CALLER, **WEST, PRODUCER_URL=producer.url) as caller:
        hop = post(caller, headers=FROM_BROWSER)
        made = post(caller)
        entry = request_line(caller)
    assert {name: hop["producerHeaders"][name] for name in FROM_BROWSER} == {
        name: [value] for name, value in FROM_BROWSER.items()
    }
    assert made["producerHeaders"]["traceparent"] == made["sentHeaders"]["traceparent"]
    assert trace_of_line(entry) == (TRACE_ID, BROWSER_SPAN, True)


@pytest.mark.parametrize(("app", "settings"), [("caller", "caller"), ("producer", "producer")])
def test_an_app_without_traces_imports_no_module_of_the_extra(app: str, settings: str) -> None:
    program = (
        f"import sys; from {app}.app import create_app; from {settings}.settings import Settings; "
        "from common.middleware.draining import Lifecycle; create_app(Settings(), Lifecycle()); "
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter', "
        "'opentelemetry.proto', 'google.protobuf', 'requests', 'common.tracing', 'caller.hop.span', "
        "'starlette.middleware.opentelemetry'))])"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.stdout.strip(), ended.stderr) == ("[]", "")


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "True"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "1"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
    ],
)
def test_the_variables_of_opentelemetry_enable_traces(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], on: bool
) -> None:
    for name, given in environment.items():
        monkeypatch.setenv(name, given)
    assert ServiceSettings().tracing is on


@pytest.mark.parametrize(
    ("environment", "setting", "expected"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER='zipkin'", "'otlp' or 'none'"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"},
            "OTEL_EXPORTER_OTLP_ENDPOINT='collector:4317'",
            "http://opentelemetry-collector:4318",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL='grpc'",
            "only http/protobuf is supported",
        ),
    ],
)
def test_invalid_settings_of_traces_end_the_process_with_one_line(
    environment: dict[str, str], setting: str, expected: str
) -> None:
    status, text = ended_with(environment, "import producer.__main__ as service; service.main()")
    assert (status, text.count("\n")) == (2, 1)
    assert text.startswith(f"{setting}: ")
    assert expected in text


def test_traces_without_the_extra_are_an_invalid_setting_with_its_fix() -> None:
    missing = "import sys; sys.modules['opentelemetry.sdk'] = None; "
    status, text = ended_with(
        {"OTEL_TRACES_EXPORTER": "otlp"}, f"{missing}import producer.__main__ as service; service.main()"
    )
    assert (status, text.count("\n")) == (2, 1)
    assert "the extra `tracing` is not installed" in text
    assert "OTEL_TRACES_EXPORTER=none" in text


def test_the_component_enables_traces_in_both_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployments = of_kind(with_components(tmp_path, ["tracing"]), "Deployment")
    assert len(deployments) == 2
    for deployment in deployments:
        given = {entry["name"]: entry.get("value") for entry in container_of(deployment)["env"]}
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", given["OTEL_EXPORTER_OTLP_ENDPOINT"])
        assert ServiceSettings().tracing


def ended_with(environment: Mapping[str, str], program: str) -> tuple[int, str]:
    """Exit status and standard error."""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(
        command, cwd=ROOT, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True, timeout=60
    )
    return ended.returncode, ended.stderr
