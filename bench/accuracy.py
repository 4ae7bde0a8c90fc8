"""Accuracy of the phases of a hop, compared with the packets of the call: `python -m bench.accuracy`, as root.

A process calls a producer on loopback, one with TLS, and one over a link with a round-trip time of 20 ms (lab/), while
tcpdump captures in the same network namespace; then curl does the same. Each call is compared with its own packets,
which its local port and its start identify: packets and calls have the times of one clock, CLOCK_REALTIME.

A phase on the wire is

- dns: from the first query to the last answer;
- connect: from SYN to SYN-ACK, because the kernel sends the ACK whether or not the client runs;
- tls: from the ClientHello to the client's Finished, so with the client's cryptography;
- send: from the first to the last segment of the request;
- wait: from there to the first segment of the reply;
- body: from there to the last segment of the reply.

A phase of a hop begins before it, with the caller's own work, and ends after it, when the process runs again. An error
is the duration by the hop minus that on the wire. `send` of a hop ends when the kernel has taken the request: a large
one leaves later, at the pace of the other side's acknowledgements. The targets are for an idle caller and a small
message.
"""

import asyncio
import gc
import json
import os
import random
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import trustme
import uvicorn
import uvloop
from prometheus_client import CollectorRegistry

import producer.app
import producer.settings
from bench.programs import MESSAGE
from bench.targets import TOLERANCE, Target
from caller.hop.client import ProducerClient
from caller.hop.metrics import HopMetrics
from caller.hop.model import ConnectionMode, Hop
from caller.hop.phases import PHASES
from caller.run import engine
from caller.run.metrics import RunMetrics
from caller.run.model import RunSpec
from caller.settings import Settings
from caller.target import PRODUCER_PATH, parse_target
from common.cluster import Identity
from common.messages import Message
from common.middleware.draining import Lifecycle
from lab.lab import CLUSTER_SET_NAME, CLUSTER_SET_URL, HEADLESS_NAME, PRODUCER_PODS, Lab, missing, pod_name
from lab.processes import PRODUCER, ROOT, free_port, running

CALLS = 200
WARM_UP_CALLS = 5
PAUSE_SECONDS = (0.02, 0.05)
"""Between two calls; random, so that they are not in step with those of the run."""
CURL_RATE = round(1 / statistics.mean(PAUSE_SECONDS))
"""Calls per second of curl over one connection."""
ROUND_TRIP_MILLIS = 20

MEDIAN_LIMIT_MILLIS, P99_LIMIT_MILLIS = 0.2, 2.0
"""Targets of the error of a phase while the caller is idle."""

TOOLS = ("tcpdump", "tshark", "curl")
FIELDS = ("frame.time_epoch", "tcp.srcport", "tcp.dstport", "tcp.flags.syn", "tcp.len", "dns.qry.name")
BUFFERED_SECONDS = 1.5
"""Longer than the kernel keeps a packet from tcpdump, which is a second."""

PUNCTUAL_WAIT = "wait − loop delay"
"""The wait of a hop minus `eventLoopDelayMillis`, which is the delay over all phases of the call."""
ROWS = ("dns", "connect", "tls", "send", "wait", PUNCTUAL_WAIT, "body")


class Place(NamedTuple):
    """Where a producer is called."""

    name: str
    url: str
    run_url: str
    """The same producer, for a run. Where names are looked up it has another one, to tell the queries apart."""
    prefix: tuple[str, ...] = ()
    """Prefix of a command that runs it there."""
    environment: Mapping[str, str] = {}
    """Of the clients."""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 80

    @property
    def is_tls(self) -> bool:
        return urlsplit(self.url).scheme == "https"


class Load(NamedTuple):
    """What the caller does."""

    connection: ConnectionMode
    rate: int = 0
    """Calls per second of a run in the same event loop; 0: idle between the measured calls."""
    size: int = 4
    """Bytes of the payload."""

    def __str__(self) -> str:
        caller = f"run of {self.rate}/s" if self.rate else "idle"
        return f"{caller}, {self.connection}" + (f", {self.size // 1024} KiB" if self.is_large else "")

    @property
    def is_large(self) -> bool:
        """Whether the request and the reply take several segments."""
        return self.size > 1024


IDLE = (Load("fresh"), Load("reuse"))
LOADS = (
    *IDLE,
    Load("fresh", size=65_536),
    Load("reuse", size=65_536),
    Load("fresh", rate=200),
    Load("reuse", rate=200),
)


class Span(NamedTuple):
    """A phase, in seconds since the epoch."""

    start: float
    end: float

    @property
    def millis(self) -> float:
        return (self.end - self.start) * 1000


class Call(NamedTuple):
    """A call as its client measured it."""

    started: float
    """Seconds since the epoch; of curl, the start of its process."""
    port: int
    """The local one."""
    spans: dict[str, Span]
    """By phase. Those of curl have the right durations only."""


class Packet(NamedTuple):
    seconds: float
    """Since the epoch."""
    source: int
    destination: int
    is_syn: bool
    size: int
    """Bytes of TCP payload."""
    name: str
    """The name in a DNS query or answer."""


class Exchange(NamedTuple):
    """The packets of one request and its reply: their times, in seconds since the epoch."""

    request: Sequence[float]
    reply: Sequence[float]
    connect: Span | None = None
    """None: an earlier request established the connection."""
    tls: Span | None = None

    @property
    def start(self) -> float:
        return self.connect.start if self.connect else self.request[0]

    def spans(self, lookups: Sequence[float]) -> dict[str, Span]:
        """By phase. `lookups`: the times of the DNS packets."""
        wait = Span(self.request[-1], self.reply[0])
        spans = {
            "dns": Span(lookups[0], lookups[-1]) if lookups else None,
            "connect": self.connect,
            "tls": self.tls,
            "send": Span(self.request[0], self.request[-1]),
            "wait": wait,
            PUNCTUAL_WAIT: wait,
            "body": Span(self.reply[0], self.reply[-1]),
        }
        return {phase: span for phase, span in spans.items() if span}


class Accuracy(NamedTuple):
    """Of one phase, for each call, in ms."""

    wire: list[float]
    errors: list[float]
    before: list[float]
    """From the start of the phase by the hop to that on the wire."""
    after: list[float]
    """From the end of the phase on the wire to that by the hop."""

    def targets(self) -> list[Target]:
        sizes = [abs(error) for error in self.errors]
        return [
            Target("median error", "the packets", "≤", MEDIAN_LIMIT_MILLIS, [statistics.median(sizes)], "", "ms"),
            Target("p99 error", "the packets", "≤", P99_LIMIT_MILLIS, [percentile(sizes, 99)], "", "ms"),
        ]

    def cells(self) -> list[str]:
        """Median and p99 of the absolute error, mean of the signed one."""
        return [*(f"{target.median:.3f}" for target in self.targets()), f"{statistics.mean(self.errors):+.3f}"]


class Measured(NamedTuple):
    """The calls at one place with one load; the accuracy by phase."""

    place: str
    load: Load
    hop: dict[str, Accuracy]
    curl: dict[str, Accuracy]
    loop_delays: list[float]
    """Delay of the event loop of each hop, in ms."""

    @property
    def targets(self) -> list[Target]:
        if self.load not in IDLE:
            return []
        return [target for phase in PHASES if phase in self.hop for target in self.hop[phase].targets()]


def percentile(values: Sequence[float], share: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def measure(place: Place, load: Load, calls: int = CALLS) -> Measured:
    with captured(place) as packets:
        hops = hops_of(place, load, calls)
    of_hops = accuracy(place, load, [call_of(hop) for hop in hops], packets)
    of_curl: dict[str, Accuracy] = {}
    if load in IDLE:  # curl's times are of another meaning while it sends a large body
        with captured(place) as packets:
            transfers = curls_of(place, load, calls)
        of_curl = accuracy(place, load, transfers, packets)
    return Measured(place.name, load, of_hops, of_curl, [loop_delay(hop) for hop in hops])


# Places


@contextmanager
def loopback() -> Iterator[Place]:
    with running(PRODUCER, LOG_LEVEL="warning") as service:
        yield Place("loopback", service.url, service.url)


@contextmanager
def loopback_with_tls() -> Iterator[Place]:
    """A producer in this process, without session tickets, which would arrive between the request and the reply."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.num_tickets = 0
    authority.issue_cert("localhost").configure_cert(context)
    app = producer.app.create_app(producer.settings.Settings(gce_metadata_host="none"), Lifecycle())
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(
            app, port=port, ssl_context_factory=lambda *_: context, log_level="warning", timeout_keep_alive=60
        )
    )
    serving = threading.Thread(target=server.run, daemon=True)
    serving.start()
    try:
        while not server.started:
            assert serving.is_alive(), "the producer with TLS has ended"
            time.sleep(0.05)
        url = f"https://localhost:{port}"
        with authority.cert_pem.tempfile() as trusted:
            yield Place("loopback, TLS", url, url, environment={"SSL_CERT_FILE": trusted, "CURL_CA_BUNDLE": trusted})
    finally:
        server.should_exit = True
        serving.join(10)


@contextmanager
def link() -> Iterator[Place]:
    """The lab's ClusterSetIP, with a lookup for each new connection."""
    with Lab(f"-accuracy-{os.getpid()}").up() as lab, lab.latency(ROUND_TRIP_MILLIS):
        pod = f"{pod_name(PRODUCER_PODS[0])}.{lab.producer_cluster.name}.{HEADLESS_NAME}"
        yield Place(f"{ROUND_TRIP_MILLIS} ms link", CLUSTER_SET_URL, f"http://{pod}:8080", lab.caller_cluster.prefix)


# Clients


def run_at(place: Place, *command: str) -> list[str]:
    """The lines that the command prints."""
    environment = {**os.environ, **place.environment}
    ended = subprocess.run(
        [*place.prefix, *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return ended.stdout.splitlines()


def hops_of(place: Place, load: Load, calls: int) -> list[Hop]:
    """The calls of a process at the place, after the warm-up."""
    printed = run_at(place, sys.executable, "-m", "bench.accuracy", json.dumps([place, load, calls]))
    return [Hop.model_validate_json(line) for line in printed][WARM_UP_CALLS:]


async def print_hops(place: Place, load: Load, calls: int) -> None:
    """In the process at the place: make the calls, then print a line for each."""
    settings = Settings(producer_url=parse_target(place.url), gce_metadata_host="none", cluster_name="bench")
    metrics = CollectorRegistry()
    hops = []
    gc.freeze()  # as in the services (common/server.py)
    async with AsyncExitStack() as stack:
        opened = ProducerClient.opened(settings, Identity(settings), HopMetrics(metrics))
        client = await stack.enter_async_context(opened)
        if load.rate:
            await stack.enter_async_context(engine.running(run_of(client, place.run_url, load, metrics)))
        for number in range(WARM_UP_CALLS + calls):
            message = Message(id=str(number), payload="x" * load.size)
            hops.append(await client.call(message, settings.producer_url, connection=load.connection))
            await asyncio.sleep(random.uniform(*PAUSE_SECONDS))
    failures = {hop.error for hop in hops if hop.outcome != "ok"}
    assert not failures, failures
    for hop in hops:
        print(hop.model_dump_json(by_alias=True))


def run_of(client: ProducerClient, url: str, load: Load, metrics: CollectorRegistry) -> engine.Run:
    """A run that lasts until it is stopped."""
    spec = RunSpec(
        targets=[url],
        message=Message(id="run", payload="test"),
        rate=load.rate,
        count=sys.maxsize,
        connection=load.connection,
        timeout_seconds=client.settings.call_timeout_seconds,
        max_in_flight=client.settings.run_max_in_flight,
    )
    return engine.Run(client, spec, [parse_target(url)], RunMetrics(metrics), Lifecycle())


def call_of(hop: Hop) -> Call:
    spans: dict[str, Span] = {}
    end = hop.started_at
    for phase in PHASES:
        millis: float | None = getattr(hop.phases, f"{phase}_millis")
        if millis is not None:
            spans[phase] = Span(end, end + millis / 1000)
            end = spans[phase].end
    spans[PUNCTUAL_WAIT] = Span(spans["wait"].start, spans["wait"].end - loop_delay(hop) / 1000)
    address = hop.connection.local_address
    assert address is not None
    return Call(hop.started_at, int(address.rpartition(":")[2]), spans)


def loop_delay(hop: Hop) -> float:
    """In ms; 0: not measured."""
    return hop.phases.event_loop_delay_millis or 0.0


def curls_of(place: Place, load: Load, calls: int) -> list[Call]:
    """The calls of curl: a process for each, or one for all over one connection."""
    url = f"{place.url}{PRODUCER_PATH}"
    if load.connection == "reuse":
        return curl(place, "--rate", f"{CURL_RATE}/s", f"{url}?[0-{calls}]")
    made = []
    for _ in range(calls):
        made += curl(place, url)
        time.sleep(random.uniform(*PAUSE_SECONDS))
    return made


def curl(place: Place, *arguments: str) -> list[Call]:
    always = ("-q", "--silent", "--fail", "--noproxy", "*", "--output", os.devnull, "--write-out", r"%{json}\n")
    request = ("--header", "content-type: application/json", "--data", MESSAGE)
    started = time.time()
    return [call_of_curl(started, json.loads(line)) for line in run_at(place, "curl", *always, *request, *arguments)]


def call_of_curl(started: float, times: Mapping[str, float]) -> Call:
    """`times`: the variables of `--write-out`, in seconds since the start of the transfer.

    `time_pretransfer` is when curl has written the request, so there is no `send`.
    """
    spans = {
        "dns": Span(0, times["time_namelookup"]),
        "connect": Span(times["time_namelookup"], times["time_connect"]),
        "tls": Span(times["time_connect"], times["time_appconnect"]),
        "wait": Span(times["time_pretransfer"], times["time_starttransfer"]),
        "body": Span(times["time_starttransfer"], times["time_total"]),
    }
    return Call(started, int(times["local_port"]), spans)


# Packets


@contextmanager
def captured(place: Place) -> Iterator[list[Packet]]:
    """The packets of DNS and of the producer's port until the context ends; the list is filled then.

    Not in tcpdump's immediate mode, in which it runs for each packet, and the client or the producer does not.
    """
    packets: list[Packet] = []
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/packets.pcap"
        options = ("-i", "any", "-n", "-s", "512", "-B", "16384", "-Z", "root", "-w", file)
        command = [*place.prefix, "tcpdump", *options, f"tcp port {place.port} or udp port 53"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            try:
                started = next((line for line in process.stderr if "listening on" in line), None)
                assert started, f"tcpdump has ended with status {process.wait()}"
                yield packets
                time.sleep(BUFFERED_SECONDS)
            finally:
                process.send_signal(signal.SIGINT)
            counts = process.stderr.read()
            assert "\n0 packets dropped by kernel" in counts, counts
        packets += sorted(packets_in(Path(file)))


def packets_in(file: Path) -> Iterator[Packet]:
    fields = [argument for field in FIELDS for argument in ("-e", field)]
    command = ["tshark", "-n", "-r", str(file), "-T", "fields", "-E", "occurrence=f", *fields]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in printed.splitlines():
        seconds, source, destination, syn, size, name = line.split("\t")
        is_syn = syn in ("1", "True")
        yield Packet(float(seconds), int(source or 0), int(destination or 0), is_syn, int(size or 0), name)


def accuracy(place: Place, load: Load, calls: Sequence[Call], packets: Sequence[Packet]) -> dict[str, Accuracy]:
    """By phase that both the client and the packets show; only of calls over the connection that the load asks for."""
    lookups = [packet.seconds for packet in packets if packet.name.startswith(CLUSTER_SET_NAME)]
    found: dict[str, Accuracy] = defaultdict(lambda: Accuracy([], [], [], []))
    for call, exchange in matched(place, calls, packets):
        if (exchange.connect is None) != (load.connection == "reuse"):
            continue
        own = lookups[bisect(lookups, call.started) : bisect(lookups, exchange.start)]
        for phase, wire in exchange.spans(own).items():
            if phase in call.spans:
                measured, of_phase = call.spans[phase], found[phase]
                of_phase.wire.append(wire.millis)
                of_phase.errors.append(measured.millis - wire.millis)
                of_phase.before.append(Span(measured.start, wire.start).millis)
                of_phase.after.append(Span(wire.end, measured.end).millis)
    return found


def matched(place: Place, calls: Sequence[Call], packets: Sequence[Packet]) -> Iterator[tuple[Call, Exchange]]:
    """Each call, in the order of their starts, with the next exchange of its local port."""
    by_port: dict[int, list[Packet]] = defaultdict(list)
    for packet in packets:
        if packet.destination == place.port:
            by_port[packet.source].append(packet)
        elif packet.source == place.port:
            by_port[packet.destination].append(packet)
    ahead = {port: exchanges(of_port, place.port) for port, of_port in by_port.items()}
    if place.is_tls:
        ahead = {port: after_handshakes(of_port) for port, of_port in ahead.items()}
    for call in calls:
        exchange = next((one for one in ahead[call.port] if one.start >= call.started), None)
        assert exchange is not None, f"no packets of the call from port {call.port}"
        yield call, exchange


def exchanges(packets: Sequence[Packet], port: int) -> Iterator[Exchange]:
    """Of the connections from one local port to the port of the server, one after the other."""
    times: dict[str, list[float]] = defaultdict(list)
    for packet in packets:
        to_server = packet.destination == port
        if to_server and (packet.is_syn or (packet.size and times["reply"])):
            if times["reply"]:
                yield exchange_of(times)
            times.clear()
        if packet.is_syn:
            times["syn" if to_server else "syn_ack"].append(packet.seconds)
        elif packet.size and (to_server or times["request"]):
            times["request" if to_server else "reply"].append(packet.seconds)
    if times["reply"]:
        yield exchange_of(times)


def exchange_of(times: Mapping[str, Sequence[float]]) -> Exchange:
    connect = Span(times["syn"][0], times["syn_ack"][0]) if times["syn"] else None
    return Exchange(tuple(times["request"]), tuple(times["reply"]), connect)


def after_handshakes(found: Iterator[Exchange]) -> Iterator[Exchange]:
    """With TLS 1.3, the first exchange of a connection is ClientHello and the server's handshake; next is Finished."""
    for one in found:
        if one.connect is None:
            yield one
        elif following := next(found, None):
            finished, *request = following.request
            tls = Span(one.request[0], finished)
            yield Exchange(request or [finished], following.reply, one.connect, tls)


# Report


def table(measured: Sequence[Measured]) -> str:
    """Durations on the wire, `before` and `after` are medians."""
    columns = (
        "place",
        "caller",
        "phase",
        "on the wire",
        "error: median",
        "p99",
        "mean",
        "before",
        "after",
        "calls",
        "",
    )
    titles = (*columns, "curl: median", "p99", "mean")
    rows = [titles, ["---"] * len(titles), *(row for one in measured for row in rows_of(one))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def rows_of(measured: Measured) -> Iterator[tuple[str, ...]]:
    place, load, hop, curl, _ = measured
    for phase in ROWS:
        if phase not in hop:
            continue
        one = hop[phase]
        wire, before, after = (f"{statistics.median(values):.3f}" for values in (one.wire, one.before, one.after))
        verdict = "–" if load not in IDLE or phase == PUNCTUAL_WAIT else worst(one.targets())
        of_curl = curl[phase].cells() if phase in curl else ["–"] * 3
        yield (place, str(load), phase, wire, *one.cells(), before, after, str(len(one.wire)), verdict, *of_curl)


def worst(targets: Sequence[Target]) -> str:
    return max(targets, key=lambda target: target.deviation).verdict


def delays(measured: Measured) -> str:
    median, p99 = statistics.median(measured.loop_delays), percentile(measured.loop_delays, 99)
    return f"- {measured.place}, {measured.load}: median {median:.3f} ms, p99 {p99:.3f} ms"


def lacking() -> str | None:
    """Why this cannot be measured here; None if it can."""
    return missing() or next((f"{tool} is not installed" for tool in TOOLS if not shutil.which(tool)), None)


def main() -> int:
    if reason := lacking():
        sys.stderr.write(f"{reason}\n")
        return 2
    measured = []
    for opened, loads in ((loopback, LOADS), (loopback_with_tls, IDLE), (link, LOADS)):
        with opened() as place:
            measured += [measure(place, load) for load in loads]
    print(f"In ms. Targets while idle: median error ≤ {MEDIAN_LIMIT_MILLIS:g}, p99 ≤ {P99_LIMIT_MILLIS:g}.\n")
    print(table(measured))
    print("\nDelay of the event loop, by the hops:\n")
    print("\n".join(map(delays, measured)))
    targets = [target for one in measured for target in one.targets]
    return 1 if any(target.deviation > TOLERANCE for target in targets) else 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        place, load, calls = json.loads(sys.argv[1])
        uvloop.run(print_hops(Place(*place), Load(*load), calls))
    else:
        sys.exit(main())
