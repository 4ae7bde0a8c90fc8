"""The diagnosis of a call: the table of causes, their ranking by symptoms, and commands that are safe to paste."""

import asyncio
import shlex
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Formatter
from typing import Any, get_args

import pytest
import trustme

from caller.explain.causes import NOT_IN_A_CLUSTER, TABLE, Cause, Row, Symptom
from caller.explain.diagnosis import Diagnosis, Names, diagnose, filled, names_of, ranked, symptoms_of
from caller.explain.dns import Candidate, DnsAnswer, DnsReport, ResolvConf, SystemAnswer
from caller.explain.explain import Explainer
from caller.hop.model import Hop
from caller.hop.outcome import Outcome
from caller.target import NameKind, Target, parse_target
from common.messages import ClusterMetadata, Message
from tests.support.servers import calling, listening, producing, replying

EXPORTED = parse_target("http://sample-producer.istio-apps.svc.clusterset.local:8080")
OF_KIND: dict[NameKind, Target] = {
    "clusterset.local": EXPORTED,
    "cluster.local": parse_target("http://sample-producer.istio-apps.svc.cluster.local:8080"),
    "short": parse_target("http://sample-producer:8080"),
    "other": parse_target("http://producer.example.com:8080"),
}
MESSAGE = Message(payload="test")
CALLER = ClusterMetadata(cluster_name="west", namespace="istio-apps", service_account="sample-caller")
PRODUCER = ClusterMetadata(cluster_name="central", namespace="istio-apps", pod_name="sample-producer-v1-0")
CAUSES = [cause for row in TABLE for cause in row.causes]


def hop_of(outcome: Outcome, **fields: Any) -> Hop:
    """A hop as the client makes it, with these fields changed."""
    answered = outcome in (Outcome.OK, Outcome.HTTP_ERROR)
    answered_by = {"who": "none", "name": "none", "evidence": "what happened"}
    if answered:
        answered_by = {"who": "producer", "name": "sample-producer", "evidence": "x-answered-by: sample-producer"}
    elif outcome is Outcome.PROXY_ERROR:
        answered_by = {"who": "proxy", "name": "unknown", "evidence": "no x-answered-by header"}
    default: dict[str, Any] = {
        "id": "1",
        "received": None,
        "caller_headers": {},
        "producer_headers": {},
        "caller_metadata": CALLER,
        "producer_metadata": PRODUCER if answered else None,
        "status_code": 200 if outcome is Outcome.OK else 502,
        "reply_status": 200 if answered else None,
        "started_at": 0.0,
        "round_trip_time_millis": 1.0,
        "outcome": outcome,
        "answered_by": answered_by,
        "error": None if outcome is Outcome.OK else "what happened",
        "target": EXPORTED.name,
        "crossing": {},
        "fault_applied": None,
        "addresses": [],
        "connection": {"mode": "fresh"},
        "phases": {},
        "sent_headers": {},
        "returned_headers": {},
    }
    return Hop.model_validate(default | fields)


def answer(rcode: str = "NXDOMAIN", *addresses: str, name: str = EXPORTED.host, type: str = "A") -> DnsAnswer:
    return DnsAnswer(name=name, type=type, rcode=rcode, addresses=list(addresses), millis=1)


def report_of(
    absolute: DnsAnswer | None = None,
    suffixed: DnsAnswer | None = None,
    counterpart: DnsAnswer | None = None,
    target: Target = EXPORTED,
    search: Sequence[str] = ("istio-apps.svc.cluster.local", "svc.cluster.local", "cluster.local"),
    error: str | None = None,
) -> DnsReport:
    """The DNS report on the target's name; NXDOMAIN where nothing else is given."""
    first = absolute or answer(name=target.host)
    candidates = [Candidate(name=target.host, answers=[first])]
    if search:
        name = f"{target.host}.{search[0]}"
        candidates.insert(0, Candidate(name=name, answers=[suffixed or answer(name=name)]))
    return DnsReport(
        asked_at=1.0,  # after the start of the hops in this file, which is 0
        host=target.host,
        system=SystemAnswer(addresses=[], error=None, millis=1),
        absolute=[first],
        candidates=candidates,
        hosts_file=False,
        queries=4,
        wasted_queries=4,
        counterpart=[counterpart or answer()],
        resolv_conf=ResolvConf(nameservers=["10.4.0.10"], search=list(search), ndots=5, error=error),
    )


def causes_of(diagnosis: Diagnosis | None) -> list[str]:
    assert diagnosis is not None
    return [cause.cause for cause in diagnosis.causes]


def assert_first(diagnosis: Diagnosis | None, phrase: str) -> None:
    causes = causes_of(diagnosis)
    assert phrase in causes[0], causes


# The table


def id_of_row(row: Row) -> str:
    return f"{row.outcomes[0]}-{row.kinds[0]}-{row.symptom}"


@pytest.mark.parametrize("kind", OF_KIND)
@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.OK])
def test_every_outcome_but_ok_has_a_diagnosis_for_every_kind_of_name(outcome: Outcome, kind: NameKind) -> None:
    assert OF_KIND[kind].kind == kind
    diagnosis = diagnose(hop_of(outcome), OF_KIND[kind], MESSAGE)
    assert diagnosis is not None
    assert diagnosis.severity == "error"
    assert diagnosis.title
    assert diagnosis.summary
    assert diagnosis.causes


@pytest.mark.parametrize("row", TABLE, ids=id_of_row)
def test_every_cause_is_complete_and_names_its_source(row: Row) -> None:
    for cause in row.causes:
        assert all((cause.cause, cause.command, cause.fix)), cause
        assert cause.source == "README.md" or cause.source.startswith("https://"), cause
        assert " " not in cause.source


def test_no_row_is_hidden_by_a_row_above_it() -> None:
    """A row without a symptom matches every call of its outcomes and kinds."""
    taken: set[tuple[Outcome, NameKind]] = set()
    for row in TABLE:
        fits = {(outcome, kind) for outcome in row.outcomes for kind in row.kinds}
        assert not fits <= taken, row.title
        if row.symptom is None:
            taken |= fits


def test_every_row_has_a_cause_when_no_symptom_was_seen() -> None:
    assert all(ranked(row.causes, set()) for row in TABLE)


@pytest.mark.parametrize("kind", OF_KIND)
def test_every_placeholder_of_the_table_is_filled_with_a_name_of_the_call(kind: NameKind) -> None:
    names = Names(names_of(hop_of(Outcome.REFUSED), OF_KIND[kind], MESSAGE, None, (2, 65)))
    for row in TABLE:
        if kind in row.kinds:
            assert_filled(row.summary, row.summary.format_map(names.as_text))
        for cause in row.causes if kind in row.kinds else ():
            result = filled(cause, names)
            for template, text in (
                (cause.cause, result.cause),
                (cause.command, result.command),
                (cause.fix, result.fix),
            ):
                assert_filled(template, text)


def assert_filled(template: str, text: str) -> None:
    """The remaining braces are those that the template wrote twice, because kubectl's jsonpath needs them."""
    literal = "".join(part for part, *_ in Formatter().parse(template))
    assert sorted(char for char in text if char in "{}") == sorted(char for char in literal if char in "{}"), text
    assert "None" not in text


# Commands


BASH = shutil.which("bash") or "bash"
BENIGN = "benign"
HOSTILE = "x; pwned $(pwned) `pwned` && pwned | pwned > stolen \\ '\" * --server=evil {service}\npwned #"


def hop_in(cluster: str) -> Hop:
    """A hop in which every field that somebody else controls is this text."""
    here = ClusterMetadata(cluster_name=f"west {cluster}", namespace=f"here {cluster}", service_account=cluster)
    there = ClusterMetadata(cluster_name=f"central {cluster}", namespace=cluster, pod_name=cluster)
    return hop_of(
        Outcome.HTTP_ERROR,
        caller_metadata=here,
        producer_metadata=there,
        error=cluster,
        answered_by={"who": "proxy", "name": cluster, "evidence": cluster},
        connection={"mode": "fresh", "peer_address": cluster},
        addresses=[cluster],
    )


def words_of(command: str, folder: Path) -> list[list[str]]:
    """The programs that a shell would start, each with its arguments. No program starts, because PATH is empty."""
    with tempfile.TemporaryDirectory() as words:
        # One file per program: the programs of a pipe run concurrently.
        script = f"command_not_found_handle() {{ printf '%s\\0' \"$@\" > {words}/$BASHPID; }}\n{command}\n"
        subprocess.run(
            [BASH, "--norc", "-c", script],
            cwd=folder,
            env={"PATH": "/nonexistent"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=False,
        )
        return sorted(file.read_text().split("\0")[:-1] for file in Path(words).iterdir())


@pytest.mark.parametrize("kind", OF_KIND)
def test_a_hostile_name_stays_one_word_of_every_command(kind: NameKind, tmp_path: Path) -> None:
    for cause in causes_for(kind):
        plain, hostile = (filled(cause, names_in(text, kind)).command for text in (BENIGN, HOSTILE))
        assert_same_words(plain, hostile, tmp_path)


@pytest.mark.parametrize("kind", OF_KIND)
def test_a_hostile_name_stays_one_word_of_a_fix_that_is_a_command(kind: NameKind, tmp_path: Path) -> None:
    for cause in causes_for(kind):
        if cause.fix.startswith(("kubectl ", "gcloud ")):
            plain, hostile = (filled(cause, names_in(text, kind)).fix for text in (BENIGN, HOSTILE))
            assert_same_words(plain, hostile, tmp_path)


def causes_for(kind: NameKind) -> list[Cause]:
    return list(dict.fromkeys(cause for row in TABLE if kind in row.kinds for cause in row.causes))


def names_in(text: str, kind: NameKind) -> Names:
    return Names(names_of(hop_in(text), OF_KIND[kind], MESSAGE, None, (2, 65)))


def assert_same_words(plain: str, hostile: str, folder: Path) -> None:
    """The shell would start the same programs, with the hostile text in place of the plain name."""
    subprocess.run([BASH, "-n", "-c", hostile], check=True, capture_output=True, timeout=10)
    expected = [[word.replace(BENIGN, HOSTILE) for word in words] for words in words_of(plain, folder)]
    assert expected, plain
    assert words_of(hostile, folder) == sorted(expected), plain
    assert list(folder.iterdir()) == []


def test_plain_names_are_not_quoted() -> None:
    names = Names(names_of(hop_of(Outcome.REFUSED), EXPORTED, MESSAGE, PRODUCER, (2, 65)))
    assert {name: text for name, text in names.quoted.items() if name in ("caller", "producer", "service", "host")} == {
        "caller": "west",
        "producer": "central",
        "service": "sample-producer",
        "host": EXPORTED.host,
    }


# Symptoms


@dataclass(frozen=True)
class Seen:
    """One call that shows a symptom."""

    hop: Hop
    target: Target = EXPORTED
    message: Message = field(default_factory=lambda: MESSAGE)
    dns: DnsReport | None = None
    sanity_check: DnsAnswer | None = None

    def symptoms(self) -> set[Symptom]:
        return set(symptoms_of(self.hop, self.target, self.message, self.dns, self.sanity_check, 65))

    def diagnosis(self) -> Diagnosis | None:
        return diagnose(self.hop, self.target, self.message, dns=self.dns, sanity_check=self.sanity_check)


def by_proxy(name: str = "Envoy", error: str = "", status: int = 503, **fields: Any) -> Seen:
    return Seen(
        hop_of(
            Outcome.PROXY_ERROR,
            status_code=status,
            answered_by={"who": "proxy", "name": name, "evidence": "server"},
            error=f"proxy {name} answered {status}: {error}",
            **fields,
        )
    )


def by_producer(error: str = "", **fields: Any) -> Seen:
    return Seen(hop_of(Outcome.HTTP_ERROR, error=f"producer sample-producer answered 503: {error}", **fields))


def by_tls(error: str) -> Seen:
    return Seen(hop_of(Outcome.TLS_ERROR, error=f"TLS: {error}"))


def by_dns(outcome: Outcome = Outcome.DNS_UNAVAILABLE, **report: Any) -> Seen:
    target: Target = report.get("target", EXPORTED)
    return Seen(hop_of(outcome), target, dns=report_of(**report), sanity_check=answer("NOERROR", "10.4.0.1"))


CERTIFICATE = {
    "names": ["sample-producer.istio-apps.svc.clusterset.local"],
    "issuer": "commonName=CA",
    "not_before": "2026-01-01T00:00:00Z",
    "not_after": "2027-01-01T00:00:00Z",
}


def by_connection(outcome: Outcome, **facts: Any) -> Seen:
    return Seen(hop_of(outcome, connection={"mode": "reuse"} | facts))


SEEN: dict[Symptom, Seen] = {
    "own_cluster": Seen(hop_of(Outcome.OK, crossing={"cluster": False})),
    "slow_dns": Seen(hop_of(Outcome.OK, phases={"dns_millis": 5003})),
    "fault_asked_for": replace(
        by_producer(status_code=503, fault_applied=True), message=Message(payload="test", response_code=503)
    ),
    "overloaded": by_producer("1000 requests in flight (MAX_IN_FLIGHT)"),
    "draining": by_producer("stopping (SHUTDOWN_SECONDS)"),
    "input_refused": by_producer("delay: Input should be at most 10", status_code=422),
    "masked_nxdomain": by_dns(suffixed=answer("SERVFAIL")),
    "resolver_silent": by_dns(absolute=answer("TIMEOUT")),
    "resolver_failed": by_dns(absolute=answer("REFUSED")),
    "sanity_check_failed": replace(by_dns(absolute=answer("SERVFAIL")), sanity_check=answer("SERVFAIL")),
    "no_resolver": by_dns(error="cannot open /etc/resolv.conf"),
    "not_in_a_cluster": by_dns(Outcome.DNS_NXDOMAIN, search=()),
    "local_service_exists": by_dns(Outcome.DNS_NXDOMAIN, counterpart=answer("NOERROR", "34.118.225.10")),
    "exported_name_exists": by_dns(
        Outcome.DNS_NXDOMAIN, target=OF_KIND["cluster.local"], counterpart=answer("NOERROR", "34.118.229.70")
    ),
    "name_exists_now": by_dns(Outcome.DNS_NXDOMAIN, absolute=answer("NOERROR", "34.118.229.70")),
    "aaaa_lost": Seen(
        hop_of(Outcome.DNS_UNAVAILABLE),
        dns=report_of().model_copy(
            update={"absolute": [answer("NOERROR", "34.118.229.70"), answer("TIMEOUT", type="AAAA")]}
        ),
    ),
    "reused_connection": Seen(hop_of(Outcome.CLOSED, connection={"mode": "reuse", "reused": True})),
    "delay_over_timeout": Seen(hop_of(Outcome.READ_TIMEOUT), message=Message(payload="test", delay=65_000)),
    "envoy": by_proxy("Istio's Envoy"),
    "no_healthy_upstream": by_proxy(error="no healthy upstream"),
    "upstream_connect_error": by_proxy(error="upstream connect error or disconnect/reset before headers."),
    "upstream_tls": by_proxy(error="transport failure reason: TLS_error:|268435703:SSL routines:WRONG_VERSION_NUMBER"),
    "upstream_timeout": by_proxy(error="upstream request timeout"),
    "rbac": by_proxy(error="RBAC: access denied"),
    "injected_by_mesh": by_proxy(error="fault filter abort"),
    "circuit_broken": by_proxy(
        error="upstream connect error or disconnect/reset before headers. reset reason: overflow"
    ),
    "rate_limited": by_proxy(error="local_rate_limited", status=429),
    "passed_on": by_proxy(returned_headers={"x-envoy-upstream-service-time": ["4"]}),
    "google": by_proxy("Google Cloud load balancer"),
    "web_server": by_proxy("nginx"),
    "tls_expired": by_connection(Outcome.TLS_ERROR, tls_verify_error="certificate has expired"),
    "tls_name": by_connection(
        Outcome.TLS_ERROR, tls_verify_error="IP address mismatch, certificate is not valid for '10.8.2.11'."
    ),
    "tls_untrusted": by_connection(Outcome.TLS_ERROR, tls_verify_error="self-signed certificate in certificate chain"),
    "tls_client_refused": by_connection(
        Outcome.TLS_ERROR, tls_alert="certificate_required", peer_certificate=CERTIFICATE
    ),
    "tls_hello_refused": by_connection(Outcome.TLS_ERROR, closed_before_reply=True),
    "unacknowledged": by_connection(Outcome.READ_TIMEOUT, bytes_sent=424, bytes_unacknowledged=424),
    "large_request": by_connection(Outcome.READ_TIMEOUT, bytes_sent=60_784, bytes_unacknowledged=60_482),
    "dead_addresses": by_connection(
        Outcome.OK,
        attempts=[
            {"address": "10.4.1.6:8080", "error": "no answer", "millis": 250.8},
            {"address": "10.4.1.7:8080", "error": None, "millis": 0.3},
        ],
    ),
    "tls_not_spoken": by_tls("WRONG_VERSION_NUMBER"),
    "tls_silent": Seen(hop_of(Outcome.TLS_ERROR, error="TLS handshake not finished within 2 s")),
    "html": Seen(hop_of(Outcome.BAD_REPLY, error="proxy unknown answered 200, text/html: <h1>hello</h1>")),
    "too_large": Seen(hop_of(Outcome.BAD_REPLY, error="the reply exceeds 1024 bytes (MAX_REPLY_BYTES)")),
}
"""For every symptom a call that shows it."""


def test_the_table_uses_every_symptom_and_no_other() -> None:
    """`not_in_a_cluster` adds a sentence to the summary."""
    used = {cause.symptom for cause in CAUSES} | {row.symptom for row in TABLE} | {"not_in_a_cluster"}
    assert used - {None} == set(get_args(Symptom)) == set(SEEN)


@pytest.mark.parametrize("symptom", SEEN)
def test_a_symptom_is_detected_and_changes_the_diagnosis(symptom: Symptom) -> None:
    seen = SEEN[symptom]
    assert seen.symptoms() <= set(get_args(Symptom))
    assert symptom in seen.symptoms()
    diagnosis = seen.diagnosis()
    assert diagnosis is not None
    rows = [row for row in TABLE if seen.hop.outcome in row.outcomes and seen.target.kind in row.kinds]
    if symptom == "not_in_a_cluster":
        assert diagnosis.summary.endswith(NOT_IN_A_CLUSTER)
    elif any(row.symptom == symptom for row in rows):
        assert diagnosis.title == next(row.title for row in rows if row.symptom == symptom)
    else:
        row = next(row for row in rows if row.symptom is None or row.symptom in seen.symptoms())
        ranks = [cause.symptom for cause in ranked(row.causes, seen.symptoms())]
        assert symptom in ranks[: len(diagnosis.causes)]


@pytest.mark.parametrize("row", TABLE, ids=id_of_row)
def test_causes_whose_symptom_was_seen_come_first_and_causes_whose_symptom_was_not_are_omitted(row: Row) -> None:
    needed = {cause.symptom for cause in row.causes if cause.symptom}
    without = [cause for cause in row.causes if cause.symptom is None]
    assert ranked(row.causes, set()) == without
    for symptom in needed:
        with_symptom = [cause for cause in row.causes if cause.symptom == symptom]
        assert ranked(row.causes, {symptom}) == [*with_symptom, *without]
    assert sorted(ranked(row.causes, needed), key=row.causes.index) == list(row.causes)


def test_without_a_symptom_an_nxdomain_is_the_export_then_the_namespace_then_the_first_five_minutes() -> None:
    diagnosis = diagnose(hop_of(Outcome.DNS_NXDOMAIN), EXPORTED, MESSAGE)
    first, second, third, *_ = causes_of(diagnosis)
    assert "no ServiceExport" in first
    assert "namespace istio-apps does not exist in the caller's cluster" in second
    assert "younger than five minutes" in third


def test_a_refusal_on_an_exported_name_is_its_endpoints_and_then_the_importers_rights() -> None:
    hop = hop_of(Outcome.REFUSED, phases={"connect_millis": 0.4}, addresses=["34.118.229.70"])
    diagnosis = diagnose(hop, EXPORTED, MESSAGE, last_seen=PRODUCER)
    assert diagnosis is not None
    endpoints, importer, *_ = diagnosis.causes
    assert "no ready pod" in endpoints.cause
    assert shlex.split(endpoints.command) == [
        *("kubectl", "--context", "central", "-n", "istio-apps", "get", "pods,endpointslices"),
        *("-l", "app=sample-producer"),
    ]
    assert "importer may not read the network" in importer.cause
    assert shlex.split(importer.command)[:5] == ["kubectl", "--context", "west", "-n", "gke-mcs"]
    assert "0.4 ms" in diagnosis.summary


def test_a_broken_cluster_dns_ranks_before_everything_about_the_name() -> None:
    for outcome, kind in ((Outcome.DNS_NXDOMAIN, kind) for kind in OF_KIND):
        target = OF_KIND[kind]
        seen = Seen(hop_of(outcome), target, dns=report_of(target=target), sanity_check=answer("SERVFAIL"))
        assert_first(seen.diagnosis(), "The cluster's DNS is broken")
    assert_first(SEEN["sanity_check_failed"].diagnosis(), "The cluster's DNS is broken")


def test_outside_a_cluster_the_sanity_check_is_no_symptom() -> None:
    seen = Seen(hop_of(Outcome.DNS_NXDOMAIN), dns=report_of(search=()), sanity_check=answer("NXDOMAIN"))
    assert "sanity_check_failed" not in seen.symptoms()


def test_an_answer_from_the_own_cluster_is_a_warning_and_an_answer_from_another_cluster_is_not() -> None:
    local = diagnose(hop_of(Outcome.OK, crossing={"cluster": False}), EXPORTED, MESSAGE)
    assert local is not None
    assert local.severity == "warning"
    assert "Both clusters export the Service" in local.causes[0].cause
    for crossing in (True, None):
        assert diagnose(hop_of(Outcome.OK, crossing={"cluster": crossing}), EXPORTED, MESSAGE) is None
    at_home = hop_of(Outcome.OK, crossing={"cluster": False})
    assert diagnose(at_home, OF_KIND["cluster.local"], MESSAGE) is None


async def test_a_requested_503_is_a_warning_and_an_unrequested_500_is_an_error() -> None:
    requested = Message(payload="test", response_code=503)
    async with producing() as url:
        warning = await diagnosis_of(url, requested)
        spared = await diagnosis_of(url, Message(payload="test", response_code=503, fault_rate=0))
    async with listening(replying(b"HTTP/1.1 500 X\r\nx-answered-by: sample-producer\r\n\r\nTraceback")) as address:
        error = await diagnosis_of(address)
        with_a_message = await diagnosis_of(address, Message(payload="test", response_code=500))
    assert warning is not None
    assert (warning.severity, "responseCode 503" in warning.causes[0].cause) == ("warning", True)
    assert spared is None
    for diagnosis in (error, with_a_message):
        assert diagnosis is not None
        assert diagnosis.severity == "error"
        assert "failed on this request" in diagnosis.causes[0].cause


async def test_commands_name_the_cluster_that_answered_last_after_it_stopped_answering() -> None:
    async with listening(replying(b"")) as another, producing(cluster_name="central") as url, calling(url) as client:
        target, explainer = client.settings.producer_url, Explainer(client)
        hop = await client.call(MESSAGE, target, connection="fresh")
        assert hop.outcome is Outcome.OK
        failed = hop_of(Outcome.CONNECT_TIMEOUT)
        after = await explainer.explain(failed, MESSAGE, target)
        other = await explainer.explain(failed, MESSAGE, parse_target(another))
    assert after.diagnosis is not None
    assert other.diagnosis is not None
    assert "--context central " in after.diagnosis.causes[0].command
    assert "--context producer-cluster " in other.diagnosis.causes[0].command


async def diagnosis_of(url: str, message: Message = MESSAGE, **settings: Any) -> Diagnosis | None:
    async with calling(url, **settings) as client:
        target = client.settings.producer_url
        hop = await client.call(message, target, connection="fresh")
        return (await Explainer(client).explain(hop, message, target)).diagnosis


# TLS, with real handshakes: the symptoms are words of OpenSSL (tests/lab/test_failures.py has more)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_of(authority: trustme.CA, *names: str, **options: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names, **options).configure_cert(context)
    return context


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


def now(**ago: int) -> datetime:
    return datetime.now(UTC) - timedelta(**ago)


@pytest.mark.parametrize(
    ("name", "options", "phrase"),
    [
        pytest.param("localhost", {"not_after": now(days=1)}, "has expired", id="expired"),
        pytest.param("localhost", {"not_before": now(days=-1)}, "not valid yet", id="not valid yet"),
        pytest.param("127.0.0.9", {}, "not issued for localhost", id="other address"),
    ],
)
async def test_the_first_cause_of_a_failed_handshake_is_the_reason_that_openssl_gave(
    name: str, options: Any, phrase: str, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with listening(silent, tls_of(authority, name, **options)) as address:
        url = f"https://localhost:{address.split(':')[1]}"
        assert_first(await diagnosis_of(url, connect_timeout_seconds=0.3), phrase)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_requires_a_client_certificate_is_the_first_cause(
    version: ssl.TLSVersion, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TLS 1.3 the server's alert comes after the client has finished its side of the handshake."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = tls_of(authority, "localhost")
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = version
    with socket.create_server(("127.0.0.1", 0)) as server:
        refusing = asyncio.create_task(asyncio.to_thread(refuse_once, server, context))
        diagnosis = await diagnosis_of(f"https://localhost:{server.getsockname()[1]}")
        await refusing
    assert_first(diagnosis, "The other side requires a client certificate")


def refuse_once(server: socket.socket, context: ssl.SSLContext) -> None:
    """A blocking socket, because asyncio's TLS closes without the alert."""
    connection, _ = server.accept()
    raw = connection.dup()
    with connection, raw:
        with suppress(ssl.SSLError):
            context.wrap_socket(connection, server_side=True)
        while raw.recv(65536):  # unread data would turn the close into a reset
            pass


# The known causes


FACTS: dict[int, tuple[Outcome, NameKind, str]] = {
    1: (Outcome.DNS_NXDOMAIN, "clusterset.local", "younger than five minutes"),
    2: (Outcome.DNS_NXDOMAIN, "clusterset.local", "does not exist in the caller's cluster"),
    3: (Outcome.DNS_NXDOMAIN, "clusterset.local", "no ServiceExport, or its name or namespace"),
    4: (Outcome.DNS_NXDOMAIN, "clusterset.local", "the CRD is missing"),
    5: (Outcome.REFUSED, "clusterset.local", "the importer may not read the network"),
    6: (Outcome.REFUSED, "clusterset.local", "no ready pod"),
    7: (Outcome.REFUSED, "clusterset.local", "The port is wrong"),
    8: (Outcome.DNS_NXDOMAIN, "clusterset.local", "its pod is pending for lack of CPU"),
    9: (Outcome.CONNECT_TIMEOUT, "clusterset.local", "A firewall between the clusters drops it"),
    10: (Outcome.CONNECT_TIMEOUT, "other", "ClusterIP of another cluster"),
    11: (Outcome.DNS_NXDOMAIN, "short", "a short name never leaves its cluster"),
    12: (Outcome.OK, "clusterset.local", "Both clusters export the Service"),
    13: (Outcome.DNS_NXDOMAIN, "clusterset.local", "Shared VPC with Cloud DNS in cluster scope"),
    14: (Outcome.DNS_NXDOMAIN, "clusterset.local", "the zone was deleted"),
    15: (Outcome.DNS_UNAVAILABLE, "clusterset.local", "its multicluster plugin has not yet"),
    16: (Outcome.DNS_UNAVAILABLE, "clusterset.local", "a search domain that answers SERVFAIL hides it"),
    17: (Outcome.OK, "clusterset.local", "AAAA queries are dropped"),
    18: (Outcome.RESET, "clusterset.local", "The pod behind this address is gone"),
    20: (Outcome.REFUSED, "clusterset.local", "a readiness probe whose timeout exceeds its period"),
    21: (Outcome.RESET, "clusterset.local", "demands mTLS (STRICT)"),
    22: (Outcome.PROXY_ERROR, "clusterset.local", "the meshes have different root certificates"),
    23: (Outcome.PROXY_ERROR, "clusterset.local", "with REGISTRY_ONLY it answers 502 itself"),
    24: (Outcome.CANCELLED, "clusterset.local", "A load balancer in front of the caller"),
    27: (Outcome.REFUSED, "clusterset.local", "Two clusters export the Service with different ports"),
    28: (Outcome.DNS_NXDOMAIN, "clusterset.local", "a cluster is not in the fleet"),
    32: (Outcome.DNS_NXDOMAIN, "clusterset.local", "CoreDNS has no `multicluster clusterset.local`"),
}
"""The known causes that a caller can distinguish, by number; 19, 25, 26, 29 to 31 show in tools or in the browser."""

MORE_FACTS: tuple[tuple[Outcome, NameKind, str], ...] = (
    (Outcome.REFUSED, "clusterset.local", "listens on 127.0.0.1 only"),
    (Outcome.REFUSED, "short", "The port is wrong"),
    (Outcome.REFUSED, "cluster.local", "no ready pod"),
    (Outcome.CONNECT_TIMEOUT, "clusterset.local", "no route between the networks"),
    (Outcome.CONNECT_TIMEOUT, "clusterset.local", "Pod addresses are translated"),
    (Outcome.CONNECT_TIMEOUT, "clusterset.local", "NetworkPolicy"),
    (Outcome.CONNECT_TIMEOUT, "clusterset.local", "The pod behind this address is gone"),
    (Outcome.DNS_NXDOMAIN, "cluster.local", "The producer runs in another cluster"),
    (Outcome.DNS_NXDOMAIN, "clusterset.local", "headless and has no ready pod"),
    (Outcome.DNS_NO_DATA, "clusterset.local", "No cluster that exports the Service has a ready pod"),
    (Outcome.UNREACHABLE, "clusterset.local", "A firewall rejects it"),
    (Outcome.CLOSED, "clusterset.local", "The pod behind this address is gone"),
    (Outcome.READ_TIMEOUT, "clusterset.local", "The pod behind this address is gone"),
    (Outcome.BAD_REPLY, "clusterset.local", "Another service"),
)
"""More causes of the same rows."""


@pytest.mark.parametrize(
    ("outcome", "kind", "phrase"),
    [*FACTS.values(), *MORE_FACTS],
    ids=[*map(str, FACTS), *(f"{outcome} {kind} {phrase}" for outcome, kind, phrase in MORE_FACTS)],
)
def test_a_known_cause_is_in_the_table(outcome: Outcome, kind: NameKind, phrase: str) -> None:
    assert any(
        phrase in cause.cause for row in TABLE if outcome in row.outcomes and kind in row.kinds for cause in row.causes
    )


def test_a_row_has_each_cause_once() -> None:
    for row in TABLE:
        texts: list[Cause] = list(row.causes)
        assert len({cause.cause for cause in texts}) == len(texts), row.title
