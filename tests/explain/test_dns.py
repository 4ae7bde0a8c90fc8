"""DNS reports of the caller, compared with the queries and answers of a real DNS server."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from os import getpid
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from caller.explain.dns import (
    ANSWER_SECONDS,
    GOOD_SECONDS,
    SYSTEM_SECONDS,
    ResolvConf,
    candidate_names,
    in_hosts_file,
    query,
    read_resolv_conf,
    report,
)
from caller.hop.resolver import Resolver
from caller.target import parse_target
from lab.dns import Query
from lab.lab import (
    CLUSTER_DNS,
    CLUSTER_IP,
    CLUSTER_NAME,
    CLUSTER_SET_IP,
    CLUSTER_SET_NAME,
    CLUSTER_SET_URL,
    CLUSTER_URL,
    NDOTS_2,
    NDOTS_5,
    SANITY_CHECK_NAME,
    SEARCH,
    Lab,
    for_tests,
    missing,
)
from lab.processes import Service

FRESH = {"payload": "ping", "connection": "fresh"}
CANDIDATES = [f"{CLUSTER_SET_NAME}.{suffix}" for suffix in SEARCH]
DEFAULT_OPTIONS = "ndots:5"
"""With glibc's default timeouts: 5 s, twice."""
GETADDRINFO_SECONDS = 20
"""The least that getaddrinfo takes with these when the DNS server is silent."""


@pytest.fixture(scope="module")
def clusters() -> Iterator[Lab]:
    if reason := missing():
        pytest.skip(reason)
    with for_tests() as lab:
        yield lab


@pytest.fixture
def lab(clusters: Lab) -> Lab:
    """The clusters, when the caller no longer reuses the report of an earlier test."""
    time.sleep(GOOD_SECONDS)
    return clusters


def get(lab: Lab, path: str, caller: Service | None = None, headers: Mapping[str, str] | None = None) -> Any:
    url = f"{(caller or lab.main_caller).url}{path}"
    response = lab.caller_cluster.threads.submit(lab.http.get, url, headers=headers).result()
    assert response.status_code == 200, response.text
    return response.json()


def dns_of(lab: Lab, name: str = CLUSTER_SET_URL, caller: Service | None = None) -> dict[str, Any]:
    """The DNS report of `/caller/targets` on the target."""
    return next(target["dns"] for target in get(lab, "/caller/targets", caller)["targets"] if target["name"] == name)


def answers(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(answer["type"], answer["rcode"], answer["addresses"], answer["ttl"]) for answer in found]


# Names that resolve


def test_the_targets_are_those_of_the_settings_each_with_the_kind_of_its_name(clusters: Lab) -> None:
    found = get(clusters, "/caller/targets")
    assert [(target["name"], target["kind"]) for target in found["targets"]] == [
        (CLUSTER_SET_URL, "clusterset.local"),
        (CLUSTER_URL, "cluster.local"),
    ]
    assert (found["maxPayloadBytes"], found["maxDelayMillis"]) == (65_536, 60_000)


def test_a_report_has_the_answers_the_counterpart_and_the_resolvers_configuration(lab: Lab) -> None:
    dns = dns_of(lab)
    assert dns["host"] == CLUSTER_SET_NAME
    assert answers(dns["absolute"]) == [("A", "NOERROR", [CLUSTER_SET_IP], 30), ("AAAA", "NOERROR", [], None)]
    assert answers(dns["counterpart"]) == [("A", "NOERROR", [CLUSTER_IP], 30), ("AAAA", "NOERROR", [], None)]
    assert {answer["name"] for answer in dns["counterpart"]} == {CLUSTER_NAME}
    assert [candidate["name"] for candidate in dns["candidates"]] == [*CANDIDATES, CLUSTER_SET_NAME]
    assert [answers(candidate["answers"]) for candidate in dns["candidates"][:-1]] == [
        [("A", "NXDOMAIN", [], None), ("AAAA", "NXDOMAIN", [], None)]
    ] * len(CANDIDATES)
    candidates = (answer for name in dns["candidates"] for answer in name["answers"])
    every = [*dns["absolute"], *dns["counterpart"], *candidates]
    assert {answer["nameserver"] for answer in every} == {CLUSTER_DNS}
    assert all(0 < answer["millis"] < SYSTEM_SECONDS * 1000 for answer in every)
    assert (dns["system"]["addresses"], dns["system"]["error"]) == ([CLUSTER_SET_IP], None)
    assert 0 < dns["system"]["millis"] < SYSTEM_SECONDS * 1000
    assert dns["hostsFile"] is False
    assert dns["resolvConf"] == {"nameservers": [CLUSTER_DNS], "search": list(SEARCH), "ndots": 5, "error": None}


def test_the_counterpart_of_a_cluster_local_name_is_the_exported_name(lab: Lab) -> None:
    with lab.zone({CLUSTER_SET_NAME: {"addresses": [CLUSTER_SET_IP, "2001:db8::1"], "ttl": 7}}):
        dns = dns_of(lab, CLUSTER_URL)
    assert answers(dns["absolute"])[0] == ("A", "NOERROR", [CLUSTER_IP], 30)
    assert answers(dns["counterpart"]) == [
        ("A", "NOERROR", [CLUSTER_SET_IP], 7),
        ("AAAA", "NOERROR", ["2001:db8::1"], 7),
    ]
    assert {answer["name"] for answer in dns["counterpart"]} == {CLUSTER_SET_NAME}


@pytest.mark.parametrize("options", [NDOTS_5, NDOTS_2])
def test_the_reported_queries_per_lookup_are_those_that_the_dns_server_received(lab: Lab, options: str) -> None:
    with lab.resolver(options):
        lab.forget_queries()
        lab.call(FRESH)
        logged = lab.queries()
        assert {query.type for query in logged} == {"A", "AAAA"}
        assert cost(dns_of(lab)) == cost_of(logged)
        with lab.without_ipv6():
            time.sleep(GOOD_SECONDS)
            lab.forget_queries()
            lab.call(FRESH)
            logged = lab.queries()
            assert {query.type for query in logged} == {"A"}
            assert cost(dns_of(lab)) == cost_of(logged)


def cost(dns: dict[str, Any]) -> tuple[int, int]:
    return dns["queries"], dns["wastedQueries"]


def cost_of(logged: list[Query]) -> tuple[int, int]:
    return len(logged), sum(query.rcode == "NXDOMAIN" for query in logged)


def test_all_queries_for_a_name_that_does_not_exist_are_wasted(lab: Lab) -> None:
    with lab.zone({CLUSTER_SET_NAME: "nxdomain"}), lab.without_ipv6():
        lab.forget_queries()
        dns = lab.call(FRESH)["dns"]
        by_glibc = lab.queries()[: len(CANDIDATES) + 1]
    assert by_glibc == [Query(name, "A", "NXDOMAIN") for name in (*CANDIDATES, CLUSTER_SET_NAME)]
    assert cost(dns) == (len(by_glibc), len(by_glibc))


# Names that do not resolve


FAILURES: dict[str, tuple[dict[str, Any], str, str, tuple[str, str], str]] = {
    "nxdomain": (
        *({CLUSTER_SET_NAME: "nxdomain", CLUSTER_NAME: "nxdomain"}, NDOTS_5),
        *("dns_nxdomain", ("NXDOMAIN", "NXDOMAIN"), "no ServiceExport"),
    ),
    "nxdomain, and a local service": (
        *({CLUSTER_SET_NAME: "nxdomain"}, NDOTS_5),
        *("dns_nxdomain", ("NXDOMAIN", "NXDOMAIN"), "The Service exists in the caller's own cluster only"),
    ),
    "nodata": (
        *({CLUSTER_SET_NAME: "nodata"}, NDOTS_5),
        *("dns_no_data", ("NOERROR", "NXDOMAIN"), "No cluster that exports the Service has a ready pod"),
    ),
    "servfail": (
        *({CLUSTER_SET_NAME: "servfail"}, NDOTS_5),
        *("dns_unavailable", ("SERVFAIL", "NXDOMAIN"), "The resolver answers with an error"),
    ),
    "refused": (
        *({CLUSTER_SET_NAME: "refused"}, NDOTS_2),
        *("dns_unavailable", ("REFUSED", "NXDOMAIN"), "The resolver answers with an error"),
    ),
    "silent": (
        *({CLUSTER_SET_NAME: "silent"}, NDOTS_2),
        *("dns_unavailable", ("TIMEOUT", "NXDOMAIN"), "The resolver does not answer"),
    ),
    "nxdomain, hidden by a search domain": (
        *({CLUSTER_SET_NAME: "nxdomain", CANDIDATES[0]: "servfail"}, NDOTS_5),
        *("dns_unavailable", ("NXDOMAIN", "SERVFAIL"), "a search domain that answers SERVFAIL hides it"),
    ),
    "sanity check as well": (
        *({CLUSTER_SET_NAME: "nxdomain", SANITY_CHECK_NAME: "nxdomain"}, NDOTS_5),
        *("dns_nxdomain", ("NXDOMAIN", "NXDOMAIN"), "The cluster's DNS is broken"),
    ),
    "everything servfail": (
        *({"*": "servfail", **dict.fromkeys((CLUSTER_SET_NAME, CLUSTER_NAME, SANITY_CHECK_NAME), "servfail")}, NDOTS_2),
        *("dns_unavailable", ("SERVFAIL", "SERVFAIL"), "The cluster's DNS is broken"),
    ),
}
"""Zone and options; outcome, rcodes of the name and of its first completed name, and a phrase of the first cause."""


@pytest.mark.parametrize(("zone", "options", "outcome", "rcodes", "phrase"), FAILURES.values(), ids=FAILURES)
def test_a_failed_lookup_has_the_resolvers_answers_and_their_cause(
    lab: Lab, zone: dict[str, Any], options: str, outcome: str, rcodes: tuple[str, str], phrase: str
) -> None:
    with lab.zone(zone), lab.resolver(options):
        hop = lab.call(FRESH)
    assert hop["outcome"] == outcome
    assert [answer["rcode"] for answer in hop["dns"]["absolute"]] == [rcodes[0]] * 2
    completed = next(name for name in hop["dns"]["candidates"] if name["name"] == CANDIDATES[0])
    assert [answer["rcode"] for answer in completed["answers"]] == [rcodes[1]] * 2
    assert hop["dns"]["system"]["addresses"] == []
    assert hop["dns"]["system"]["error"]
    causes = [cause["cause"] for cause in hop["diagnosis"]["causes"]]
    assert phrase in causes[0], causes


def test_a_call_with_a_reply_causes_no_further_queries(clusters: Lab) -> None:
    with clusters.resolver(NDOTS_2):
        clusters.forget_queries()
        hop = clusters.call({**FRESH, "responseCode": 503})
        assert len(clusters.queries()) == 2
    assert (hop["outcome"], hop["dns"]) == ("http_error", None)


def test_a_refused_call_shows_that_the_name_resolves(lab: Lab) -> None:
    with lab.endpoints():
        hop = lab.call(FRESH)
    assert hop["outcome"] == "refused"
    assert answers(hop["dns"]["absolute"])[0] == ("A", "NOERROR", [CLUSTER_SET_IP], 30)
    assert "no ready pod" in hop["diagnosis"]["causes"][0]["cause"]


def test_an_answer_from_before_a_call_does_not_explain_it(lab: Lab) -> None:
    get(lab, "/caller/targets")
    with lab.zone({CLUSTER_SET_NAME: "nxdomain"}):
        hop = lab.call(FRESH)
    assert hop["outcome"] == "dns_nxdomain"
    assert "exists by now" not in hop["diagnosis"]["causes"][0]["cause"]


def test_a_silent_dns_server_delays_the_targets_for_seconds_only(clusters: Lab) -> None:
    """getaddrinfo itself takes 20 s and longer."""
    silent = dict.fromkeys(("*", CLUSTER_SET_NAME, CLUSTER_NAME, SANITY_CHECK_NAME), "silent")
    with clusters.zone(silent), clusters.resolver(DEFAULT_OPTIONS), clusters.caller() as caller:
        started = time.monotonic()
        dns = dns_of(clusters, caller=caller)
        took = time.monotonic() - started
        during_the_lookups = time.monotonic()
        get(clusters, "/actuator/health/readiness", caller)
        assert time.monotonic() - during_the_lookups < GETADDRINFO_SECONDS / 2
    assert SYSTEM_SECONDS <= took < GETADDRINFO_SECONDS / 2
    assert {answer["rcode"] for answer in dns["absolute"]} == {"TIMEOUT"}
    assert dns["system"]["error"] == f"no answer within {SYSTEM_SECONDS:g} s"


def test_concurrent_failures_share_one_report(lab: Lab) -> None:
    """Each call resolves by getaddrinfo; the report that explains the failures is made once."""
    with lab.zone({CLUSTER_SET_NAME: "nxdomain"}), lab.resolver(NDOTS_2):
        lab.forget_queries()
        calls = [lab.calling(FRESH) for _ in range(50)]
        hops = [call.result() for call in calls]
        received = Counter(query.name for query in lab.queries() if query.type == "A")
    assert Counter(hop["outcome"] for hop in hops) == {"dns_nxdomain": 50}
    assert all(hop["dns"]["absolute"] for hop in hops)
    reports = received[SANITY_CHECK_NAME]
    assert 1 <= reports <= 10, "a report is reused for a second only, and a busy machine takes longer for the calls"
    assert received[CLUSTER_NAME] == reports  # the counterpart
    assert received[CLUSTER_SET_NAME] == 50 + 2 * reports  # the calls; the report itself and its getaddrinfo


EVIL = "evil.example"


def test_no_name_of_a_request_is_looked_up(lab: Lab) -> None:
    headers = {
        **dict.fromkeys(("host", "x-forwarded-host", "x-original-host", "x-real-host", "referer", "origin"), EVIL),
        "forwarded": f"host={EVIL};for={EVIL}",
        "x-forwarded-for": EVIL,
        "via": f"1.1 {EVIL}",
        "baggage": f"host={EVIL}",
        "x-cloud-trace-context": EVIL,
    }
    messages: list[dict[str, Any]] = [
        {**FRESH, "payload": f"http://{EVIL}"},
        {**FRESH, "target": EVIL},
        {**FRESH, "target": f"http://{EVIL}:8080"},
        {**FRESH, "target": f"{CLUSTER_SET_NAME}.{EVIL}"},
        {**FRESH, "target": f"{CLUSTER_SET_URL}@{EVIL}"},
        {**FRESH, "id": EVIL, "only": {"clusterName": EVIL}},
    ]
    url = f"{lab.main_caller.url}/caller/messages"
    post = lab.caller_cluster.threads.submit
    lab.forget_queries()
    statuses = [post(lab.http.post, url, json=message, headers=headers).result().status_code for message in messages]
    with lab.zone({CLUSTER_SET_NAME: "nxdomain"}):
        lab.caller_cluster.threads.submit(lab.http.post, url, json=FRESH, headers=headers).result()
        for path in ("/caller/targets", "/caller/checks", f"/caller/targets?target={EVIL}&host={EVIL}"):
            get(lab, path, headers=headers)
    assert statuses == [200, 422, 422, 422, 422, 200]
    cluster_local = [f"{CLUSTER_NAME}.{suffix}" for suffix in SEARCH]
    known = {CLUSTER_SET_NAME, CLUSTER_NAME, SANITY_CHECK_NAME, *CANDIDATES, *cluster_local}
    assert {query.name for query in lab.queries()} <= known


def test_a_search_list_may_contain_the_root(lab: Lab) -> None:
    """systemd-resolved writes `search … .`, and the kubelet copies it."""
    with lab.resolver(f"{NDOTS_5}\nsearch {' '.join(SEARCH)} ."), lab.zone({CLUSTER_SET_NAME: "nxdomain"}):
        hop = lab.call(FRESH)
        dns = dns_of(lab)
    assert hop["outcome"] == "dns_nxdomain"
    assert dns["resolvConf"]["search"] == list(SEARCH)
    assert {candidate["name"] for candidate in dns["candidates"]} == {*CANDIDATES, CLUSTER_SET_NAME}


def test_a_target_that_is_too_long_for_every_search_domain_is_explained(clusters: Lab) -> None:
    """A name has at most 253 characters; getaddrinfo skips completed names that are longer."""
    host = ".".join(letter * 60 for letter in "abcd")
    with clusters.caller(COMPARE_URLS=host) as caller:
        hop = clusters.call({**FRESH, "target": host}, caller)
        dns = dns_of(clusters, f"http://{host}:8080", caller)
    assert hop["outcome"] in ("dns_nxdomain", "dns_unavailable")
    assert {answer["rcode"] for answer in dns["absolute"]} == {"NXDOMAIN"}


def test_an_address_is_not_looked_up(clusters: Lab) -> None:
    with clusters.caller(COMPARE_URLS=f"http://{CLUSTER_IP}:8080") as caller:
        clusters.forget_queries()
        hop = clusters.call({**FRESH, "target": CLUSTER_IP}, caller)
        assert clusters.queries() == []
        dns = dns_of(clusters, f"http://{CLUSTER_IP}:8080", caller)
    assert hop["outcome"] == "ok"
    assert (dns["absolute"], dns["candidates"], dns["queries"]) == ([], [], 0)
    assert dns["system"]["addresses"] == [CLUSTER_IP]


# Files


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"nameserver 10.4.0.10\nsearch a.b c.d\noptions ndots:5\n", (["10.4.0.10"], ["a.b", "c.d"], 5)),
        (b"nameserver 10.4.0.10\n", (["10.4.0.10"], [], 1)),
        (b"# comment\n; comment\n\nnameserver 10.4.0.10\n", (["10.4.0.10"], [], 1)),
        (b"nameserver 10.4.0.10\nnameserver fd00::10\n", (["10.4.0.10", "fd00::10"], [], 1)),
        (b"nameserver 10.4.0.10\ndomain a.b\n", (["10.4.0.10"], ["a.b"], 1)),
        (b"nameserver 10.4.0.10\nsearch a.b\nsearch c.d\n", (["10.4.0.10"], ["c.d"], 1)),
        (b"nameserver 10.4.0.10\nsearch a.b.\n", (["10.4.0.10"], ["a.b"], 1)),
        (b"nameserver 10.4.0.10\noptions ndots:2 timeout:1 rotate edns0\n", (["10.4.0.10"], [], 2)),
        (b"nameserver 10.4.0.10\noptions ndots:many\n", (["10.4.0.10"], [], 1)),
        (b"nameserver\t10.4.0.10\r\nsearch\ta.b\r\n", (["10.4.0.10"], ["a.b"], 1)),
    ],
)
def test_resolv_conf_is_read_as_glibc_does(text: bytes, expected: tuple[Any, ...], tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_bytes(text)
    nameservers, search, ndots = expected
    assert read_resolv_conf(file) == ResolvConf(nameservers=nameservers, search=search, ndots=ndots)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, "No such file"),
        (b"", "no nameservers"),
        (b"search a.b\noptions ndots:2\n", "no nameservers"),
        (b"nameserver nonsense\n", "no nameservers"),
        (bytes(range(128, 256)), "no nameservers"),
        (b"nameserver 10.4.0.10\nsearch " + b"a" * 64 + b"\n", "label"),
        (b"nameserver 10.4.0.10\nsearch a..b\n", "label"),
    ],
)
def test_an_unusable_resolv_conf_is_an_error_with_its_reason(text: bytes | None, error: str, tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    if text is not None:
        file.write_bytes(text)
    conf = read_resolv_conf(file)
    assert conf.nameservers == []
    assert conf.error is not None
    assert error in conf.error


def test_an_invalid_nameserver_is_ignored_as_by_glibc(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver nonsense\nnameserver 10.4.0.10\n")
    assert read_resolv_conf(file).nameservers == ["10.4.0.10"]


def test_an_ndots_above_15_is_15_as_for_glibc(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 10.4.0.10\noptions ndots:99\n")
    assert read_resolv_conf(file).ndots == 15


@pytest.mark.parametrize(
    ("host", "search", "ndots", "names"),
    [
        ("a", ["x", "y"], 1, ["a.x", "a.y", "a"]),
        ("a.b", ["x", "y"], 1, ["a.b", "a.b.x", "a.b.y"]),
        ("a.b", ["x"], 2, ["a.b.x", "a.b"]),
        ("a.b.c", ["x"], 2, ["a.b.c", "a.b.c.x"]),
        ("a", [], 5, ["a"]),
        ("a", ["x"], 0, ["a", "a.x"]),
    ],
)
def test_the_search_list_is_tried_before_a_name_with_fewer_dots_than_ndots(
    host: str, search: list[str], ndots: int, names: list[str]
) -> None:
    assert candidate_names(host, ResolvConf(nameservers=[], search=search, ndots=ndots)) == names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1 producer", True),
        ("10.0.0.1\tother\tproducer # comment", True),
        ("10.0.0.1 PRODUCER", True),
        ("::1 producer", True),
        ("# 10.0.0.1 producer", False),
        ("10.0.0.1 other # producer", False),
        ("producer 10.0.0.1", False),
        ("10.0.0.1 producer.example", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_a_name_is_in_the_hosts_file_or_not(text: str, expected: bool, tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text(f"127.0.0.1 localhost\n{text}\n")
    assert in_hosts_file("Producer", file) is expected


def test_a_hosts_file_may_be_missing_or_in_another_encoding(tmp_path: Path) -> None:
    assert in_hosts_file("producer", tmp_path / "hosts") is False
    (tmp_path / "hosts").write_bytes(b"10.0.0.2 caf\xe9\n10.0.0.1 producer\n")
    assert in_hosts_file("producer", tmp_path / "hosts") is True


async def test_a_name_of_the_hosts_file_needs_no_query() -> None:
    found = await report(parse_target("http://localhost:8080"), Resolver())
    assert found.hosts_file
    assert (found.queries, found.wasted_queries) == (0, 0)
    assert "127.0.0.1" in found.system.addresses


# Queries to the resolver


ADDRESS = f"127.53.{getpid() // 256 % 256}.{getpid() % 254 + 1}"
"""An address of loopback that no other test run uses."""


class Truncating(asyncio.DatagramProtocol):
    """Answers with the flag TC and no record, as a server whose answer does not fit into a datagram."""

    def __init__(self) -> None:
        self.queries = 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self.queries += 1
        with suppress(dns.exception.DNSException):
            response = dns.message.make_response(dns.message.from_wire(data))
            response.flags |= dns.flags.TC
            self.transport.sendto(response.to_wire(), addr)


@asynccontextmanager
async def truncating(*addresses: str) -> AsyncIterator[Truncating]:
    """A DNS server that answers over TCP only: with these addresses for every name, or with NXDOMAIN."""
    loop = asyncio.get_running_loop()
    try:
        transport, datagrams = await loop.create_datagram_endpoint(Truncating, (ADDRESS, 53))
    except PermissionError:
        pytest.skip("port 53 needs root")

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = dns.message.from_wire(await reader.readexactly(int.from_bytes(await reader.readexactly(2))))
        response = dns.message.make_response(query)
        if addresses:
            response.answer.append(dns.rrset.from_text(query.question[0].name, 5, "IN", "A", *addresses))
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
        wire = response.to_wire()
        writer.write(len(wire).to_bytes(2) + wire)
        writer.close()
        await writer.wait_closed()

    streams = await asyncio.start_server(stream, ADDRESS, 53)
    try:
        yield datagrams
    finally:
        transport.close()
        streams.close()


async def test_an_answer_that_does_not_fit_into_a_datagram_is_queried_over_tcp() -> None:
    conf = ResolvConf(nameservers=[ADDRESS], search=[], ndots=1)
    async with truncating("10.0.0.1", "10.0.0.2") as datagrams:
        answer = await query("many.example", "A", conf)
    assert datagrams.queries == 1
    assert (answer.rcode, sorted(answer.addresses), answer.ttl) == ("NOERROR", ["10.0.0.1", "10.0.0.2"], 5)


async def test_the_next_name_server_is_queried_after_a_silent_one() -> None:
    silent = ADDRESS.replace("127.53.", "127.54.")
    async with truncating():
        answer = await query("no.example", "A", ResolvConf(nameservers=[silent, ADDRESS], search=[], ndots=1))
    assert (answer.rcode, answer.nameserver) == ("NXDOMAIN", ADDRESS)


async def test_three_silent_name_servers_take_no_longer_than_the_timeout_of_a_report() -> None:
    silent = [f"127.55.0.{number}" for number in (1, 2, 3)]
    started = time.monotonic()
    answer = await query("no.example", "A", ResolvConf(nameservers=silent, search=[], ndots=1))
    assert answer.rcode == "TIMEOUT"
    assert time.monotonic() - started < len(silent) * ANSWER_SECONDS, "each has less than its own timeout"


async def test_without_a_name_server_a_query_is_an_error_immediately() -> None:
    answer = await query("no.example", "A", ResolvConf(nameservers=[], search=[], ndots=1))
    assert (answer.rcode, answer.nameserver) == ("ERROR", None)
