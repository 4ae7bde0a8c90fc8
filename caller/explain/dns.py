"""Names to addresses: as any program in the pod resolves them, and as the resolver answers when it is asked itself.

getaddrinfo shows neither the answer's code nor which name of the search list it came from, so a failure is explained by
asking the resolver for the absolute names. That happens only for failures, `/caller/targets` and `/caller/checks`.
"""

import asyncio
import ipaddress
import socket
import threading
import time
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
from pydantic import Field

from caller.target import Target
from common.messages import Wire

RESOLV_CONF = Path("/etc/resolv.conf")
HOSTS = Path("/etc/hosts")
MOST_NDOTS = 15
"""The cap of glibc."""
MOST_AT_ONCE = 32
"""Lookups of one name at once; more wait."""
ANSWER_SECONDS = 1.5
"""How long one name server may take; in a cluster it answers in a few ms."""
SYSTEM_SECONDS = 3.0
"""How long getaddrinfo is waited for here; it would go on for 20 s and more where the name server is silent."""
GOOD_SECONDS = 1.0
"""How long an answer of the resolver is shown again."""
CONTROL_SERVICE = "kubernetes.default"
"""Exists in every cluster, so a resolver that does not know it is broken, whatever the target."""


class ResolvConf(Wire):
    """What `/etc/resolv.conf` says (resolv.conf(5))."""

    nameservers: list[str] = Field(examples=[["10.4.0.10"]])
    search: list[str] = Field(examples=[["istio-apps.svc.cluster.local", "svc.cluster.local", "cluster.local"]])
    ndots: int = Field(description="a name with fewer dots is tried with every search domain first")
    error: str | None = Field(default=None, description="why the file could not be used")


class SystemAnswer(Wire):
    """What getaddrinfo gave."""

    addresses: list[str]
    error: str | None = Field(default=None, examples=["Name or service not known (EAI_NONAME)"])
    millis: float


class DnsAnswer(Wire):
    """What the resolver answered to one question."""

    name: str = Field(description="absolute, without the trailing dot")
    type: str = Field(examples=["A", "AAAA"])
    rcode: str = Field(
        description="`NOERROR`, `NXDOMAIN`, `SERVFAIL`, … (RFC 6895, 2.3); `TIMEOUT` or `ERROR` where no answer came"
    )
    addresses: list[str]
    ttl: int | None = Field(default=None, description="seconds")
    millis: float
    nameserver: str | None = Field(default=None, description="who answered, or was asked last")


class Candidate(Wire):
    """One of the names that a lookup of the host would try, in its order."""

    name: str
    answers: list[DnsAnswer]


class DnsReport(Wire):
    """All that can be known of a host's name from inside the pod."""

    host: str
    system: SystemAnswer
    absolute: list[DnsAnswer] = Field(description="the host itself with a trailing dot; empty for an IP address")
    candidates: list[Candidate] = Field(description="what a lookup tries, in order; empty for an IP address")
    asked_at: float = Field(description="seconds since the epoch")
    hosts_file: bool = Field(description="the host is in /etc/hosts, so a lookup asks nobody")
    queries: int = Field(description="how many queries one lookup costs")
    wasted_queries: int = Field(description="how many of them are for names that do not exist")
    twin: list[DnsAnswer] = Field(
        default_factory=list,
        description="the same service under the other suffix: cluster.local for clusterset.local and the reverse",
    )
    resolv_conf: ResolvConf


class Lookups:
    """getaddrinfo, as any program in the pod resolves, without holding anything up.

    A silent DNS server holds a lookup for 20 s and longer, and nothing can end it. So each runs in a daemon thread, for
    which the end of the process does not wait, and no name takes the threads of another: each has `MOST_AT_ONCE`.
    """

    def __init__(self) -> None:
        self.slots: dict[str, asyncio.Semaphore] = {}

    async def look_up(self, host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
        """`(family, (address, port))` in the order in which they are to be tried.

        :raises socket.gaierror: the name has no address, or nobody could say.
        """
        slot = self.slots.setdefault(host, asyncio.Semaphore(MOST_AT_ONCE))
        await slot.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Any]] = loop.create_future()

        def settle(addresses: list[Any], error: OSError | None) -> None:
            slot.release()  # when the thread ends, not when whoever asked goes away
            if found.cancelled():
                return
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)

        def ask() -> None:
            addresses: list[Any] = []
            error = None
            try:
                addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            except OSError as failure:
                error = failure
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, addresses, error)

        threading.Thread(target=ask, name="getaddrinfo", daemon=True).start()
        return [(family, (scoped(address), port)) for family, _, _, _, address in await found]


def scoped(address: tuple[Any, ...]) -> str:
    """The address; a link-local one of IPv6 with the interface that it is good on."""
    scope = address[3] if len(address) > 3 else 0
    return f"{address[0]}%{scope}" if scope else str(address[0])


class Questions:
    """Asks the resolver about a target; answers are good for a second, so that a storm of failures asks once."""

    def __init__(self, lookups: Lookups) -> None:
        self.lookups = lookups
        self.asked: dict[str, tuple[float, asyncio.Task[tuple[DnsReport, DnsAnswer]]]] = {}

    async def about(self, target: Target) -> tuple[DnsReport, DnsAnswer]:
        """The report on the target's name, and the resolver's answer for a name that every cluster has."""
        asked_at, asking = self.asked.get(target.host, (0.0, None))
        if asking is None or time.monotonic() - asked_at > GOOD_SECONDS:
            asking = asyncio.create_task(self.ask(target))
            self.asked[target.host] = (time.monotonic(), asking)
        # Shielded: the one who asked first may go away while others wait for the same answer.
        return await asyncio.shield(asking)

    async def ask(self, target: Target) -> tuple[DnsReport, DnsAnswer]:
        return await asyncio.gather(report(target, self.lookups), control(read_resolv_conf()))


async def report(target: Target, lookups: Lookups) -> DnsReport:
    """Everything about the target's name. Never raises; takes at most about `SYSTEM_SECONDS`."""
    host = target.host
    asked_at = time.time()
    conf = read_resolv_conf()
    if is_address(host):
        system = await system_answer(host, target.port, lookups)
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
    others = [target.twin] if target.twin else []
    system, answers = await asyncio.gather(
        system_answer(host, target.port, lookups),
        asyncio.gather(*(ask_all(name, conf) for name in (*names, *others))),
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
        twin=answers[len(names)] if others else [],
        resolv_conf=conf,
    )


async def system_answer(host: str, port: int, lookups: Lookups) -> SystemAnswer:
    started = time.perf_counter()
    addresses: list[str] = []
    error = None
    try:
        async with asyncio.timeout(SYSTEM_SECONDS):
            addresses = list(dict.fromkeys(address for _, (address, _) in await lookups.look_up(host, port)))
    except socket.gaierror as failure:
        error = f"{failure.strerror} ({gai_name(failure)})"
    except TimeoutError:
        error = f"no answer within {SYSTEM_SECONDS:g} s"
    except OSError as failure:
        error = str(failure)
    return SystemAnswer(addresses=addresses, error=error, millis=since(started))


def gai_name(error: socket.gaierror) -> str:
    return next((name for name in dir(socket) if name.startswith("EAI_") and getattr(socket, name) == error.errno), "")


async def control(conf: ResolvConf) -> DnsAnswer:
    """The resolver's answer for a name that every cluster has."""
    return await ask(f"{CONTROL_SERVICE}.{cluster_domain(conf) or 'svc.cluster.local'}", "A", conf)


def cluster_domain(conf: ResolvConf) -> str | None:
    """`svc.` and the cluster's domain, which need not be cluster.local; None: this is no pod of a cluster."""
    return next((domain for domain in conf.search if domain.startswith("svc.")), None)


async def ask_all(name: str, conf: ResolvConf) -> list[DnsAnswer]:
    return list(await asyncio.gather(*(ask(name, kind, conf) for kind in ("A", "AAAA"))))


async def ask(name: str, kind: str, conf: ResolvConf) -> DnsAnswer:
    """One question to the resolver itself, for the absolute name; the next name server where one is silent."""
    started = time.perf_counter()
    query = dns.message.make_query(dns.name.from_text(name + "."), kind)
    rcode, where = "ERROR", None
    for where in conf.nameservers:
        patience = min(ANSWER_SECONDS, SYSTEM_SECONDS - (time.perf_counter() - started))
        if patience <= 0:
            break
        try:
            answer, _ = await dns.asyncquery.udp_with_fallback(query, where, timeout=patience, ignore_errors=True)
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
    """The resolver's configuration, read anew: the kubelet writes it, people change it."""
    resolver = dns.resolver.Resolver(configure=False)
    error = None
    try:
        resolver.read_resolv_conf(StringIO(understood(path.read_text(errors="replace"))))
    except (dns.exception.DNSException, OSError, ValueError) as failure:
        error = str(failure) or type(failure).__name__
    domains = resolver.search or ([resolver.domain] if len(resolver.domain) > 1 else [])
    return ResolvConf(
        nameservers=[str(server) for server in resolver.nameservers],
        search=[domain.to_text(omit_final_dot=True) for domain in domains if len(domain) > 1],
        ndots=1 if resolver.ndots is None else min(resolver.ndots, MOST_NDOTS),
        error=error,
    )


def understood(text: str) -> str:
    """Without the name servers that are no address, which glibc passes over and dnspython does not."""
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
    """Whether it can be asked for: with a long search domain a long host can exceed the 255 octets of a name."""
    try:
        dns.name.from_text(f"{text}.")
    except dns.exception.DNSException:
        return False
    return True


def lookup_length(candidates: list[Candidate]) -> int:
    """How many candidates a lookup asks for: up to the first that has an address."""
    for position, candidate in enumerate(candidates, 1):
        if addresses_of(candidate.answers):
            return position
    return len(candidates)


def addresses_of(answers: list[DnsAnswer]) -> list[str]:
    return [address for answer in answers for address in answer.addresses]


def families_asked() -> tuple[str, ...]:
    """The types that getaddrinfo asks for: with AI_ADDRCONFIG, AAAA only on a host with an IPv6 address of its own."""
    try:
        interfaces = Path("/proc/net/if_inet6").read_text().split("\n")
    except OSError:
        interfaces = []
    has_ipv6 = any(line and line.split()[-1] != "lo" for line in interfaces)
    return ("A", "AAAA") if has_ipv6 else ("A",)


def in_hosts_file(host: str, path: Path = HOSTS) -> bool:
    """Whether `/etc/hosts` has the name, which is looked at first (hosts(5), nsswitch.conf(5))."""
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
