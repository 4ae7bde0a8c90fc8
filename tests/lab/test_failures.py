"""The failure matrix: every failure between clusters that an application can observe, made with real clusters.

A row has the fault, the expected outcome, a phrase of the first cause, and the duration of the call. The known causes
have the numbers of `tests/explain/test_diagnosis.py`. Causes that a pod cannot distinguish share a row; some (25, 26,
29, 30) show in tools or in the browser only.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trustme

from caller.explain.dns import GOOD_SECONDS
from lab.lab import (
    CLUSTER_NAME,
    CLUSTER_SET_IP,
    CLUSTER_SET_NAME,
    CLUSTER_SET_URL,
    CLUSTER_URL,
    FOREIGN_CLUSTER_IP,
    NDOTS_2,
    PRODUCER_PODS,
    SEARCH,
    TTL,
    Lab,
)
from lab.processes import Service
from tests.explain.test_proxies import CONNECT_ERROR
from tests.lab.matrix import WIDTHS, Line, Matrix, table
from tests.lab.worlds import (
    AUTHORITY,
    NEW_POD,
    World,
    all_of,
    behind,
    hanging,
    killed,
    named,
    nginx,
    one_envoy,
    replying,
    request_of,
    reset,
    silent,
    tls,
    tls_server,
    without_a_route,
)

FRESH = {"payload": "ping", "connection": "fresh"}
TLS_URL = f"https://{CLUSTER_SET_NAME}:8080"
OTHER_PORT_URL = f"http://{CLUSTER_SET_NAME}:9090"
DERIVED_NAME = "gke-mcs-7nq2v1dl0c.istio-apps.svc.cluster.local"
DERIVED_URL = f"http://{DERIVED_NAME}:8080"
SHORT_URL = "http://sample-producer:8080"
FOREIGN_URL = f"http://{FOREIGN_CLUSTER_IP}:8080"
NO_LOCAL_SERVICE = {CLUSTER_NAME: "nxdomain"}
IMPORTED = {"addresses": [CLUSTER_SET_IP], "ttl": TTL}
IMMEDIATE = (0.0, 2900.0)
"""ms. Failures without a timeout take a few; the rest is for a busy machine. Less than any timeout of the matrix."""
CONNECT_SECONDS = 3
CONNECT_TIMEOUT = (2950.0, 8000.0)


@dataclass(frozen=True)
class Row:
    number: str
    made: str
    world: World
    outcome: str
    cause: str | None
    """Phrase of the first cause; None: no diagnosis."""
    among: tuple[str, ...] = ()
    """Phrases of further causes."""
    target: str = CLUSTER_SET_URL
    millis: tuple[float, float] = IMMEDIATE
    short_timeout: bool = False
    also: Callable[[Lab, dict[str, Any]], None] | None = None
    """A further check during the fault."""
    message: dict[str, Any] = field(default_factory=lambda: FRESH)


# Further checks


def the_name_resolves_in_the_exporting_cluster(lab: Lab, _: dict[str, Any]) -> None:
    done = lab.cli("call", "--expect-cluster", "producer-cluster", cluster=lab.producer_cluster)
    assert done.returncode == 0, done.stderr


def the_address_works_in_its_own_cluster(lab: Lab, _: dict[str, Any]) -> None:
    done = lab.cli("call", PRODUCER_URL=FOREIGN_URL, cluster=lab.producer_cluster)
    assert done.returncode == 0, done.stderr


def pods_are_ready(lab: Lab, _: dict[str, Any]) -> None:
    for pod in PRODUCER_PODS:
        lab.producer_cluster.inside(lab.producers[pod].wait_ready)


def the_derived_name_still_works(lab: Lab, _: dict[str, Any]) -> None:
    assert lab.cli("call", PRODUCER_URL=DERIVED_URL).returncode == 0


def the_address_works(lab: Lab, _: dict[str, Any]) -> None:
    assert lab.cli("call", PRODUCER_URL=f"http://{CLUSTER_SET_IP}:8080").returncode == 0


def the_next_call_is_ok(lab: Lab, _: dict[str, Any]) -> None:
    with lab.zone({CLUSTER_SET_NAME: IMPORTED}):
        assert lab.call(FRESH)["outcome"] == "ok"


def it_did_not_cross(_: Lab, hop: dict[str, Any]) -> None:
    assert hop["crossing"]["cluster"] is False
    assert hop["producerMetadata"]["clusterName"] == "caller-cluster"


def nginx_answered(status: int) -> Callable[[Lab, dict[str, Any]], None]:
    def also(_: Lab, hop: dict[str, Any]) -> None:
        assert (hop["statusCode"], hop["answeredBy"]["who"], hop["answeredBy"]["name"]) == (status, "proxy", "nginx")
        assert hop["producerMetadata"] is None

    return also


SUFFIXED = f"{CLUSTER_SET_NAME}.{SEARCH[-1]}"
NO_EXPORT = "no ServiceExport"
NOT_READY = "The producer has no ready pod"
IMPORTER = "the importer may not read the network"
FIREWALL = "A firewall between the clusters drops it"
GONE = "The pod behind this address is gone"
DIED = "The producer's process ended"
RESOLVER_ERROR = "The resolver answers with an error"
TLS_TEXT = "transport failure reason: TLS_error:|268435581:SSL routines:OPENSSL_internal"

ROWS = (
    # DNS
    Row(
        *("-", "not exported; a local Service", lambda lab: lab.exported(), "dns_nxdomain"),
        "The Service exists in the caller's own cluster only",
    ),
    Row(
        *("1,4,8,28", "not exported"),
        lambda lab: all_of(lab.exported(), lab.zone(NO_LOCAL_SERVICE)),
        *("dns_nxdomain", NO_EXPORT),
        among=("younger than five minutes", "a cluster is not in the fleet", "pending for lack of CPU"),
    ),
    Row(
        *("2", "NXDOMAIN in the caller's cluster", named({CLUSTER_SET_NAME: "nxdomain", **NO_LOCAL_SERVICE})),
        *("dns_nxdomain", NO_EXPORT),
        among=("The namespace istio-apps does not exist in the caller's cluster",),
        also=the_name_resolves_in_the_exporting_cluster,
    ),
    Row(
        *("3", "exported under another name"),
        lambda lab: all_of(
            lab.exported(),
            lab.zone({**NO_LOCAL_SERVICE, "sample-producers.istio-apps.svc.clusterset.local": IMPORTED}),
        ),
        *("dns_nxdomain", f"{NO_EXPORT}, or its name or namespace is not that of the Service"),
    ),
    Row(
        *("11", "a short name, and no local Service", named(NO_LOCAL_SERVICE), "dns_nxdomain"),
        "The producer runs in another cluster: a short name never leaves its cluster",
        target=SHORT_URL,
    ),
    Row(
        *("11", "cluster.local, and no local Service", named(NO_LOCAL_SERVICE), "dns_nxdomain"),
        "The producer runs in another cluster: its exported name",
        target=CLUSTER_URL,
    ),
    Row(
        *("13,14", "no zone, but derived names"),
        named({CLUSTER_SET_NAME: "nxdomain", **NO_LOCAL_SERVICE, DERIVED_NAME: IMPORTED}),
        *("dns_nxdomain", NO_EXPORT),
        among=("The DNS zone of the fleet is not visible in this cluster",),
        also=the_derived_name_still_works,
    ),
    Row(
        *("31,32", "discovery broken, the address works"),
        named({CLUSTER_SET_NAME: "nxdomain", **NO_LOCAL_SERVICE}),
        *("dns_nxdomain", NO_EXPORT),
        among=("CoreDNS has no `multicluster clusterset.local`",),
        also=the_address_works,
    ),
    Row(
        *("-", "the name has no address", named({CLUSTER_SET_NAME: "nodata"}), "dns_no_data"),
        "No cluster that exports the Service has a ready pod",
    ),
    Row("-", "SERVFAIL", named({CLUSTER_SET_NAME: "servfail"}), "dns_unavailable", RESOLVER_ERROR),
    Row("-", "REFUSED", named({CLUSTER_SET_NAME: "refused"}), "dns_unavailable", RESOLVER_ERROR),
    Row(
        *("15", "SERVFAIL, then an answer", named({CLUSTER_SET_NAME: "servfail"}, NDOTS_2)),
        *("dns_unavailable", RESOLVER_ERROR),
        also=the_next_call_is_ok,
    ),
    Row(
        *("-", "everything is SERVFAIL"),
        named(dict.fromkeys(("*", CLUSTER_SET_NAME, CLUSTER_NAME, "kubernetes.default.svc.cluster.local"), "servfail")),
        *("dns_unavailable", "The cluster's DNS is broken"),
    ),
    Row(
        *("-", "DNS is silent (1 s, twice)"),
        lambda lab: all_of(lab.resolver(NDOTS_2), lab.caller_cluster.rule("DNS", "-p", "udp", "-j", "DROP")),
        *("dns_unavailable", "The cluster's DNS is broken"),
        among=("The resolver does not answer",),
        millis=(1_950, 4_900),
    ),
    Row(
        *("17", "AAAA is lost (2 s, three times)"),
        named({CLUSTER_SET_NAME: {**IMPORTED, "silent": ["AAAA"]}}, "ndots:2 timeout:2 attempts:1"),
        *("ok", "AAAA queries are dropped"),
        millis=(5_950, 12_000),
    ),
    Row(
        *("-", "AAAA is SERVFAIL, A resolves", named({CLUSTER_SET_NAME: {**IMPORTED, "servfail": ["AAAA"]}})),
        *("ok", None),
    ),
    Row(
        *("16", "a search suffix is SERVFAIL"),
        named({CLUSTER_SET_NAME: "nxdomain", SUFFIXED: "servfail"}),
        *("dns_unavailable", "a search domain that answers SERVFAIL hides it"),
    ),
    Row(
        *("16", "the same with ndots:2"),
        named({CLUSTER_SET_NAME: "nxdomain", **NO_LOCAL_SERVICE, SUFFIXED: "servfail"}, NDOTS_2),
        *("dns_nxdomain", NO_EXPORT),
    ),
    # Connecting
    Row(
        *("5", "ready pods, no endpoint: REJECT", lambda lab: lab.endpoints(), "refused", NOT_READY),
        among=(IMPORTER, "a readiness probe whose timeout exceeds its period"),
        also=pods_are_ready,
    ),
    Row(
        *("6", "scaled to zero", lambda lab: lab.scaled(lab.producer_cluster, 0), "refused", NOT_READY),
        among=(IMPORTER,),
    ),
    Row(
        *("7,27", "a port that is not in the import", lambda lab: lab.exported(lab.producer_cluster), "refused"),
        NOT_READY,
        among=("The port is wrong", "Two clusters export the Service with different ports"),
        target=OTHER_PORT_URL,
    ),
    Row(
        *("7", "the endpoint has another port", lambda lab: lab.endpoints(f"{PRODUCER_PODS[0]}:9090"), "refused"),
        NOT_READY,
        among=("The port is wrong",),
    ),
    Row(
        *("7", "the pod listens on 127.0.0.1 only"),
        lambda lab: all_of(lab.producer_cluster.listening(NEW_POD, reset, "127.0.0.1"), lab.endpoints(NEW_POD)),
        *("refused", NOT_READY),
        among=("The producer listens on 127.0.0.1 only",),
    ),
    Row(
        *("-", "a firewall answers with a RST", lambda lab: lab.firewall("REJECT --reject-with tcp-reset")),
        *("refused", NOT_READY),
    ),
    Row(
        *("18", "pod killed, its endpoint stays", killed, "refused", NOT_READY),
        among=(GONE,),
    ),
    Row(
        *("18,20", "pod deleted, its endpoint stays", lambda lab: lab.endpoints("10.8.2.99")),
        *("connect_timeout", FIREWALL),
        among=(GONE,),
        millis=CONNECT_TIMEOUT,
    ),
    Row(
        *("9", "a firewall drops", lambda lab: lab.firewall("DROP"), "connect_timeout", FIREWALL),
        among=("no route between the networks", "Pod addresses are translated"),
        millis=CONNECT_TIMEOUT,
    ),
    Row(
        *("9", "a NetworkPolicy of the caller drops"),
        lambda lab: lab.caller_cluster.rule("OUTPUT", "-d", lab.producer_cluster.network, "-j", "DROP"),
        *("connect_timeout", FIREWALL),
        among=("A NetworkPolicy drops it",),
        millis=CONNECT_TIMEOUT,
    ),
    Row(
        *("9", "no route back: networks not peered"),
        lambda lab: lab.producer_cluster.route("blackhole", lab.caller_cluster.network),
        *("connect_timeout", FIREWALL),
        among=("no route between the networks",),
        millis=CONNECT_TIMEOUT,
    ),
    Row(
        *("10", "the ClusterIP of the other cluster", lambda lab: lab.exported(lab.producer_cluster)),
        *("connect_timeout", "The address is a ClusterIP of another cluster"),
        target=FOREIGN_URL,
        millis=CONNECT_TIMEOUT,
        also=the_address_works_in_its_own_cluster,
    ),
    *(
        Row("-", made, partial(Lab.firewall, verdict=f"REJECT --reject-with {code}"), "unreachable", cause)
        for made, code, cause in (
            ("a firewall rejects it (host)", "icmp-host-unreachable", "A firewall rejects it"),
            ("a firewall rejects it (prohibited)", "icmp-admin-prohibited", "A firewall rejects it"),
            ("a router has no route", "icmp-net-unreachable", "A firewall rejects it"),
        )
    ),
    Row("-", "the pod has no route", without_a_route, "unreachable", "A firewall rejects it", among=("no route",)),
    # Connected
    Row(
        *("-", "RST after the request", behind(reset), "reset", "demands mTLS (STRICT)"),
        among=(GONE, DIED),
    ),
    Row("-", "FIN before the reply", behind(request_of), "closed", DIED, among=(GONE,)),
    Row(
        *("-", "the body ends early"),
        behind(replying(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")),
        *("closed", DIED),
    ),
    Row(
        *("-", "the producer hangs (SIGSTOP)", hanging, "read_timeout"),
        "The producer hangs or is overloaded",
        among=(GONE,),
        millis=(1_950, 8_000),
        short_timeout=True,
    ),
    Row(
        *("-", "not HTTP: another protocol", behind(replying(b"SSH-2.0-OpenSSH_9.2\r\n")), "bad_reply"),
        "Another service, or another protocol, listens on this port",
    ),
    # TLS
    Row(
        *("21", "http to a port that needs (m)TLS"),
        lambda lab: tls(lab, CLUSTER_SET_NAME, authority=trustme.CA()),
        *("reset", "demands mTLS (STRICT)"),
        among=("does not speak HTTP, or wants TLS",),
    ),
    Row(
        *("-", "https to a plain port", lambda lab: lab.exported(lab.producer_cluster), "tls_error"),
        "speaks plain HTTP",
        target=TLS_URL,
    ),
    Row(
        *("-", "certificate of unknown authority"),
        lambda lab: tls(lab, CLUSTER_SET_NAME, authority=trustme.CA()),
        *("tls_error", "an authority that the caller does not trust"),
        target=TLS_URL,
    ),
    Row(
        *("-", "certificate for cluster.local only"),
        lambda lab: tls(lab, CLUSTER_NAME, authority=AUTHORITY),
        *("tls_error", f"The certificate is not issued for {CLUSTER_SET_NAME}"),
        target=TLS_URL,
    ),
    Row(
        *("-", "no TLS handshake", behind(silent), "tls_error"),
        "does not speak TLS, or a proxy between swallows",
        target=TLS_URL,
        millis=CONNECT_TIMEOUT,
    ),
    # Replies of proxies
    Row(
        *("22", "Envoy: another root certificate"),
        one_envoy("503 Service Unavailable", f"{CONNECT_ERROR} {TLS_TEXT}:CERTIFICATE_VERIFY_FAILED:TLS_error_end"),
        *("proxy_error", "Envoy could not do TLS with the other side"),
    ),
    Row(
        *("22", "Envoy: TLS to a plain port"),
        one_envoy("503 Service Unavailable", f"{CONNECT_ERROR} {TLS_TEXT}:HTTP_REQUEST"),
        *("proxy_error", "Envoy could not do TLS with the other side"),
    ),
    Row(
        *("23", "Envoy: REGISTRY_ONLY", one_envoy("502 Bad Gateway", ""), "proxy_error"),
        "The sidecar does not know",
    ),
    Row(
        *("proxy", "nginx before a pod that is stopped"),
        lambda lab: nginx(lab, f"listen {NEW_POD}:8080; location / {{ proxy_pass http://127.0.0.1:9; }}"),
        *("proxy_error", "A web server or an ingress controller"),
        also=nginx_answered(502),
    ),
    Row(
        *("proxy", "the timeout of nginx is shorter"),
        lambda lab: nginx(
            lab,
            f"listen {NEW_POD}:8080;"
            f" location / {{ proxy_pass http://{PRODUCER_PODS[0]}:8080; proxy_read_timeout 300ms; }}",
        ),
        *("proxy_error", "A web server or an ingress controller"),
        also=nginx_answered(504),
        message={**FRESH, "delay": 20_000},
        millis=(280, 8_000),
    ),
    Row(
        *("proxy", "http to nginx's TLS port"),
        lambda lab: nginx(lab, tls_server(lab)),
        *("proxy_error", "A web server or an ingress controller"),
        also=nginx_answered(400),
    ),
    # Replies of the producer
    Row(
        *("12", "the own cluster exports it", lambda lab: lab.exported(lab.caller_cluster), "ok"),
        "Both clusters export the Service",
        also=it_did_not_cross,
    ),
    Row(
        *("12", "a local Service and its short name", lambda lab: lab.exported(lab.producer_cluster), "ok", None),
        target=SHORT_URL,
        also=it_did_not_cross,
    ),
    Row(
        *("http", "the producer's own 503", lambda lab: lab.exported(lab.producer_cluster), "http_error"),
        "responseCode 503",
        message={**FRESH, "responseCode": 503},
    ),
)


LAST_PHASE = {
    **dict.fromkeys(("dns_nxdomain", "dns_no_data", "dns_unavailable"), "dnsMillis"),
    **dict.fromkeys(("refused", "unreachable", "connect_timeout"), "connectMillis"),
    "tls_error": "tlsMillis",
    **dict.fromkeys(("reset", "read_timeout"), "waitMillis"),
}
ERRORS = {
    "dns_nxdomain": "EAI_NONAME",
    "dns_no_data": "EAI_NODATA",
    "dns_unavailable": "EAI_AGAIN",
    "refused": "ECONNREFUSED",
    "unreachable": "UNREACH",
    "reset": "ECONNRESET",
}
STATUS = {"connect_timeout": 504, "read_timeout": 504}
PHASES = ("dnsMillis", "connectMillis", "tlsMillis", "sendMillis", "waitMillis", "bodyMillis")


@pytest.fixture(scope="module")
def caller(lab: Lab) -> Iterator[Service]:
    """A caller with all targets of the matrix, whose call timeout is longer than the timeouts of glibc."""
    AUTHORITY.cert_pem.write_to_path(str(lab.folder / "ca.pem"))
    targets = (CLUSTER_URL, TLS_URL, OTHER_PORT_URL, SHORT_URL, FOREIGN_URL)
    trusted = str(lab.folder / "ca.pem")
    with lab.caller(
        COMPARE_URLS=",".join(targets),
        CONNECT_TIMEOUT_SECONDS=str(CONNECT_SECONDS),
        CALL_TIMEOUT_SECONDS="30",
        SSL_CERT_FILE=trusted,
    ) as caller:
        yield caller


@pytest.fixture(autouse=True)
def _restored(lab: Lab) -> Iterator[None]:
    """After each test everything works again."""
    yield
    assert {lab.call(FRESH)["producerMetadata"]["ipAddress"] for _ in PRODUCER_PODS} == set(PRODUCER_PODS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.number} {row.made}")
def test_a_failure_has_its_outcome_its_first_cause_and_its_duration(
    lab: Lab, caller: Service, caller_with_short_timeout: Service, matrix: Matrix, row: Row
) -> None:
    if row.outcome.startswith("dns_"):
        time.sleep(GOOD_SECONDS)  # the caller reuses a DNS report for a while
    with row.world(lab):
        chosen = caller_with_short_timeout if row.short_timeout else caller
        hop = lab.call({**row.message, "target": row.target}, chosen)
        causes = [cause["cause"] for cause in hop["diagnosis"]["causes"]] if hop["diagnosis"] else []
        millis = hop["roundTripTimeMillis"]
        deviations = list(deviations_of(row, hop, causes, millis))
        matrix.append(Line(row.number, row.made, row.outcome, hop["outcome"], (causes or ["-"])[0], millis, deviations))
        assert not deviations, (hop["error"], causes)
        assert_consistent(hop)
        if row.also:
            row.also(lab, hop)


def test_the_matrix_fits_its_columns() -> None:
    assert max(len(line) for line in table([Line("", "", "", "", "a long cause " * 9, 1, [])])) <= 120
    assert [row.made for row in ROWS if len(row.made) > WIDTHS[1] or len(row.number) > WIDTHS[0]] == []


def deviations_of(row: Row, hop: dict[str, Any], causes: list[str], millis: float) -> Iterator[str]:
    if hop["outcome"] != row.outcome:
        yield f"the outcome is {hop['outcome']}"
    if row.cause is None and causes:
        yield "the call has a diagnosis"
    if row.cause is not None and not (causes and row.cause in causes[0]):
        yield "another cause is first"
    for words in row.among:
        if not any(words in cause for cause in causes):
            yield f"{words!r} is not a cause"
    if not row.millis[0] <= millis <= row.millis[1]:
        yield f"the call took {millis:.0f} ms, expected {row.millis[0]:.0f} to {row.millis[1]:.0f}"


def assert_consistent(hop: dict[str, Any]) -> None:
    """Phases, addresses and identities match the phase in which a call with this outcome ends."""
    outcome = hop["outcome"]
    phases = {name: hop["phases"][name] for name in PHASES if hop["phases"][name] is not None}
    assert sum(phases.values()) == pytest.approx(hop["roundTripTimeMillis"], abs=0.01)
    if outcome in LAST_PHASE:
        assert list(phases)[-1] == LAST_PHASE[outcome]
        assert (hop["answeredBy"]["who"], hop["statusCode"]) == ("none", STATUS.get(outcome, 502))
        assert ERRORS.get(outcome, "") in hop["error"]
        assert hop["producerMetadata"] is None
        assert hop["crossing"] == {"cluster": None, "zone": None, "region": None}
    connected = LAST_PHASE.get(outcome) not in ("dnsMillis", "connectMillis")
    assert (hop["connection"]["peerAddress"] is not None) is connected
    assert (hop["addresses"] == []) is (outcome.startswith("dns_") or hop["target"] == FOREIGN_URL)


def test_a_shorter_timeout_of_a_load_balancer_is_a_504_in_the_browser_and_cancelled_in_the_callers_metrics(
    lab: Lab, matrix: Matrix
) -> None:
    balancer = "10.4.1.20"
    server = f"listen {balancer}:8080; location / {{ proxy_pass {lab.main_caller.url}; proxy_read_timeout 1s; }}"
    with nginx(lab, server, balancer):
        started = time.monotonic()
        url = f"http://{balancer}:8080/caller/messages"
        reply = lab.caller_cluster.inside(partial(lab.http.post, url, json={**FRESH, "delay": 9000}))
        took = (time.monotonic() - started) * 1000
        deadline = time.monotonic() + 20
        while not (counted := lab.hops_counted(outcome="cancelled")) and time.monotonic() < deadline:
            time.sleep(0.1)
    deviations = [] if (reply.status_code, counted) == (504, 1) else [f"{reply.status_code}, {counted} cancelled"]
    outcome = "cancelled" if counted else "none"
    cause = f"(the browser sees {reply.headers['server'].partition('/')[0]}'s {reply.status_code})"
    matrix.append(Line("24", "shorter timeout of a load balancer", "cancelled", outcome, cause, took, deviations))
    assert not deviations
    assert 950 < took < 8_000


def test_an_unexported_service_still_answers_over_an_open_connection(lab: Lab, matrix: Matrix) -> None:
    reuse = {"payload": "ping", "connection": "reuse"}
    assert lab.call(reuse)["outcome"] == "ok"
    with lab.exported():
        reused, fresh = lab.call(reuse), lab.call(FRESH)
    outcomes = reused["outcome"], fresh["outcome"]
    deviations = [] if outcomes == ("ok", "dns_nxdomain") else list(outcomes)
    millis = reused["roundTripTimeMillis"]
    matrix.append(Line("19", "unexported; a connection is open", "ok", reused["outcome"], "-", millis, deviations))
    assert not deviations
