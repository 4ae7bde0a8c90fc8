"""The DNS report: what getaddrinfo gives, and what the resolver answers for each absolute name.

getaddrinfo shows neither the rcode nor which name of the search list it came from, so the resolver is queried directly
(dnspython). Only for failures, `/caller/targets` and `/caller/checks`.
"""

import asyncio
import ipaddress
import socket
import time
from io import StringIO
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
from pydantic import Field

from caller.hop.resolver import Resolver, gai_name, host_text
from caller.target import Target
from common.messages import Wire

RESOLV_CONF = Path("/etc/resolv.conf")
HOSTS = Path("/etc/hosts")
MOST_NDOTS = 15
"""Maximum of glibc."""
ANSWER_SECONDS = 1.5
"""Timeout of one name server; in a cluster it answers in a few ms."""
SYSTEM_SECONDS = 3.0
"""Timeout of getaddrinfo here; without an answer from the name server it takes 20 s and more."""
GOOD_SECONDS = 1.0
"""How long a report is reused."""
SANITY_CHECK_SERVICE = "kubernetes.default"
"""Exists in every cluster: a resolver that does not resolve it is broken, whatever the target."""


class ResolvConf(Wire):
    """Content of `/etc/resolv.conf` (resolv.conf(5))."""

    nameservers: list[str] = Field(examples=[["10.4.0.10"]])
    search: list[str] = Field(examples=[["istio-apps.svc.cluster.local", "svc.cluster.local", "cluster.local"]])
    ndots: int = Field(description="a name with fewer dots is tried with every search domain first")
    error: str | None = Field(default=None, description="why the file is unusable")


class SystemAnswer(Wire):
    """Result of getaddrinfo."""

    addresses: list[str]
    error: str | None = Field(default=None, examples=["Name or service not known (EAI_NONAME)"])
    millis: float


class DnsAnswer(Wire):
    """The resolver's answer to one query."""

    name: str = Field(description="absolute, without the trailing dot")
    type: str = Field(examples=["A", "AAAA"])
    rcode: str = Field(
        description="`NOERROR`, `NXDOMAIN`, `SERVFAIL`, … (RFC 6895, 2.3); `TIMEOUT` or `ERROR` without an answer"
    )
    addresses: list[str]
    ttl: int | None = Field(default=None, description="seconds")
    millis: float
    nameserver: str | None = Field(default=None, description="name server that answered, or was queried last")


class Candidate(Wire):
    """One of the names that a lookup of the host tries."""

    name: str
    answers: list[DnsAnswer]


class DnsReport(Wire):
    """DNS of a host, seen from inside the pod."""

    host: str
    system: SystemAnswer
    absolute: list[DnsAnswer] = Field(description="the host itself with a trailing dot; empty for an IP address")
    candidates: list[Candidate] = Field(description="what a lookup tries, in order; empty for an IP address")
    asked_at: float = Field(description="seconds since the epoch")
    hosts_file: bool = Field(description="the host is in /etc/hosts, so a lookup sends no query")
    queries: int = Field(description="queries per lookup")
    wasted_queries: int = Field(description="of these, for names without an address")
    counterpart: list[DnsAnswer] = Field(
        default_factory=list,
        description="the same Service under the other suffix: cluster.local for clusterset.local and the reverse",
    )
    resolv_conf: ResolvConf


class DnsReports:
    """Reports on targets, each reused for `GOOD_SECONDS`, so that many failures cause one set of queries."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.reports: dict[str, tuple[float, asyncio.Task[tuple[DnsReport, DnsAnswer]]]] = {}

    async def about(self, target: Target) -> tuple[DnsReport, DnsAnswer]:
        """The report on the target's name, and the resolver's answer for a name that exists in every cluster."""
        started_at, querying = self.reports.get(target.host, (0.0, None))
        if querying is None or time.monotonic() - started_at > GOOD_SECONDS:
            querying = asyncio.create_task(self.query(target))
            self.reports[target.host] = (time.monotonic(), querying)
        # Shielded: the first caller may be cancelled while others wait for the same report.
        return await asyncio.shield(querying)

    async def query(self, target: Target) -> tuple[DnsReport, DnsAnswer]:
        return await asyncio.gather(report(target, self.resolver), sanity_check(read_resolv_conf()))


async def report(target: Target, resolver: Resolver) -> DnsReport:
    """DNS of the target's name. Never raises; takes at most about `SYSTEM_SECONDS`."""
    host = target.host
    asked_at = time.time()
    conf = read_resolv_conf()
    if is_address(host):
        system = await system_answer(host, target.port, resolver)
        return DnsReport(
            host=host,
            system=system,
            absolute=[],
            candidates=[],
            asked_at=asked_at,
            hosts_file=False,
            queries=0,
            wasted_queries=0,
            resolv_conf=conf,
        )
    names = candidate_names(host, conf)
    others = [target.counterpart] if target.counterpart else []
    system, answers = await asyncio.gather(
        system_answer(host, target.port, resolver),
        asyncio.gather(*(query_both(name, conf) for name in (*names, *others))),
    )
    candidates = [Candidate(name=name, answers=found) for name, found in zip(names, answers, strict=False)]
    hosts_file = in_hosts_file(host)
    tried = 0 if hosts_file else lookup_length(candidates)
    families = len(families_asked())
    return DnsReport(
        host=host,
        system=system,
        absolute=next(candidate.answers for candidate in candidates if candidate.name == host),
        candidates=candidates,
        asked_at=asked_at,
        hosts_file=hosts_file,
        queries=tried * families,
        wasted_queries=sum(not addresses_of(candidate.answers) for candidate in candidates[:tried]) * families,
        counterpart=answers[len(names)] if others else [],
        resolv_conf=conf,
    )


async def system_answer(host: str, port: int, resolver: Resolver) -> SystemAnswer:
    started = time.perf_counter()
    addresses: list[str] = []
    error = None
    try:
        async with asyncio.timeout(SYSTEM_SECONDS):
            found, _ = await resolver.look_up(host, port)
            addresses = list(dict.fromkeys(host_text(address) for _, address in found))
    except socket.gaierror as failure:
        error = f"{failure.strerror} ({gai_name(failure)})"
    except TimeoutError:
        error = f"no answer within {SYSTEM_SECONDS:g} s"
    except OSError as failure:
        error = str(failure)
    return SystemAnswer(addresses=addresses, error=error, millis=since(started))


async def sanity_check(conf: ResolvConf) -> DnsAnswer:
    """The resolver's answer for a name that exists in every cluster."""
    return await query(f"{SANITY_CHECK_SERVICE}.{cluster_domain(conf) or 'svc.cluster.local'}", "A", conf)


def cluster_domain(conf: ResolvConf) -> str | None:
    """`svc.` and the cluster's domain, which need not be cluster.local; None: not running in a pod of a cluster."""
    return next((domain for domain in conf.search if domain.startswith("svc.")), None)


async def query_both(name: str, conf: ResolvConf) -> list[DnsAnswer]:
    return list(await asyncio.gather(*(query(name, kind, conf) for kind in ("A", "AAAA"))))


async def query(name: str, kind: str, conf: ResolvConf) -> DnsAnswer:
    """One query to the resolver for the absolute name; to the next name server if one does not answer."""
    started = time.perf_counter()
    question = dns.message.make_query(dns.name.from_text(name + "."), kind)
    rcode, where = "ERROR", None
    for where in conf.nameservers:
        timeout = min(ANSWER_SECONDS, SYSTEM_SECONDS - (time.perf_counter() - started))
        if timeout <= 0:
            break
        try:
            answer, _ = await dns.asyncquery.udp_with_fallback(question, where, timeout=timeout, ignore_errors=True)
        except dns.exception.Timeout:
            rcode = "TIMEOUT"
        except (OSError, dns.exception.DNSException):
            rcode = "ERROR"
        else:
            records = [
                record
                for rrset in answer.answer
                for record in rrset
                if record.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
            ]
            return DnsAnswer(
                name=name,
                type=kind,
                rcode=dns.rcode.to_text(answer.rcode()),
                addresses=[record.address for record in records],
                ttl=min((rrset.ttl for rrset in answer.answer), default=None),
                millis=since(started),
                nameserver=where,
            )
    return DnsAnswer(name=name, type=kind, rcode=rcode, addresses=[], millis=since(started), nameserver=where)


def read_resolv_conf(path: Path = RESOLV_CONF) -> ResolvConf:
    """The resolver's configuration; not cached, because the file may change."""
    resolver = dns.resolver.Resolver(configure=False)
    error = None
    try:
        resolver.read_resolv_conf(StringIO(drop_invalid_nameservers(path.read_text(errors="replace"))))
    except (dns.exception.DNSException, OSError, ValueError) as failure:
        error = str(failure) or type(failure).__name__
    domains = resolver.search or ([resolver.domain] if len(resolver.domain) > 1 else [])
    return ResolvConf(
        nameservers=[str(server) for server in resolver.nameservers],
        search=[domain.to_text(omit_final_dot=True) for domain in domains if len(domain) > 1],
        ndots=1 if resolver.ndots is None else min(resolver.ndots, MOST_NDOTS),
        error=error,
    )


def drop_invalid_nameservers(text: str) -> str:
    """Without name servers that are not an address: glibc ignores them, dnspython raises."""
    lines = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] != ["nameserver"] or (len(words) > 1 and is_address(words[1].partition("%")[0])):
            lines.append(line)
    return "\n".join(lines)


def candidate_names(host: str, conf: ResolvConf) -> list[str]:
    """The absolute names that a lookup of `host` tries, in order (resolv.conf(5), `ndots`)."""
    completed = [name for domain in conf.search if is_name(name := f"{host}.{domain}")]
    return [host, *completed] if host.count(".") >= conf.ndots else [*completed, host]


def is_name(text: str) -> bool:
    """Whether it is a valid name: with a long search domain a long host can exceed 255 octets (RFC 1035, 2.3.4)."""
    try:
        dns.name.from_text(f"{text}.")
    except dns.exception.DNSException:
        return False
    return True


def lookup_length(candidates: list[Candidate]) -> int:
    """How many candidates a lookup queries: up to the first that has an address."""
    for position, candidate in enumerate(candidates, 1):
        if addresses_of(candidate.answers):
            return position
    return len(candidates)


def addresses_of(answers: list[DnsAnswer]) -> list[str]:
    return [address for answer in answers for address in answer.addresses]


def families_asked() -> tuple[str, ...]:
    """The types that getaddrinfo queries: with AI_ADDRCONFIG, AAAA only on a host with an IPv6 address."""
    try:
        interfaces = Path("/proc/net/if_inet6").read_text().split("\n")
    except OSError:
        interfaces = []
    has_ipv6 = any(line and line.split()[-1] != "lo" for line in interfaces)
    return ("A", "AAAA") if has_ipv6 else ("A",)


def in_hosts_file(host: str, path: Path = HOSTS) -> bool:
    """Whether `/etc/hosts`, which comes before DNS, has the name (hosts(5), nsswitch.conf(5))."""
    try:
        lines = path.read_text(errors="replace").lower().splitlines()
    except OSError:
        return False
    return any(host.lower() in line.partition("#")[0].split()[1:] for line in lines)


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)
