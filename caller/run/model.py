"""The models of a run: its request, its events, its summary."""

from typing import Annotated, Literal

from pydantic import Field

from caller.hop.model import ConnectionMode
from common.messages import Message, Wire


class RunSpec(Wire):
    """The parameters of a run."""

    targets: list[str] = Field(description="called in turn")
    message: Message
    rate: float = Field(description="calls per second")
    count: int = Field(description="total number of calls")
    connection: ConnectionMode
    timeout_seconds: float = Field(description="for one call")
    max_in_flight: int


class Latency(Wire):
    """Percentiles of the latency of some calls, in ms."""

    count: int
    p50_millis: float | None = None
    p90_millis: float | None = None
    p99_millis: float | None = None
    max_millis: float | None = None


class PeerStats(Wire):
    """The calls that one cluster answered; `unknown`: calls without a reply, or without the name of a cluster."""

    cluster: str
    latency: Latency = Field(description="from the intended start of a call")
    service_time: Latency = Field(description="from its actual start")


class Distribution(Wire):
    """Number of calls answered by each cluster, zone and pod."""

    clusters: dict[str, int]
    zones: dict[str, int]
    pods: dict[str, int]


class Progress(Wire):
    """Counts and latencies of a run so far."""

    elapsed_seconds: float
    offered: int = Field(description="calls that were due")
    sent: int = Field(description="calls that were started")
    dropped: int = Field(description="calls that were due while `maxInFlight` were in flight")
    done: int
    in_flight: int
    rate: float = Field(description="calls started per second, while calls were being started")
    outcomes: dict[str, int]
    peers: list[PeerStats]
    distribution: Distribution
    scheduling_delay: Latency = Field(description="from the intended to the actual start: the caller's own delay")


class Who(Wire):
    """Who answered a call."""

    cluster: str | None
    zone: str | None
    pod: str | None


class Outage(Wire):
    """Consecutive failed calls to one target: from the start of the first to the start of the next successful one.

    Starts are the intended ones, so the error of the duration is the scheduling delay at both ends.
    """

    target: str
    at_seconds: float = Field(description="since the start of the run")
    millis: float
    calls_lost: int
    outcomes: dict[str, int]
    before: Who | None = Field(description="who answered the last call before; null: no call was answered")
    after: Who | None = Field(description="who answered the first call after; null: the run ended during the outage")


class Balance(Wire):
    """Whether the pods that answered got equal shares of the calls."""

    verdict: Literal["even", "uneven", "one pod", "too few calls", "no answers"]
    pods: int
    chi_squared: float | None = None
    p_value: float | None = Field(
        default=None, description="probability of a distribution at least this uneven by chance"
    )


class Histograms(Wire):
    """HdrHistograms of µs, encoded (V2, compressed, base64); they can be added."""

    latency: dict[str, str] = Field(description="by cluster")
    service_time: dict[str, str] = Field(description="by cluster")
    scheduling_delay: str


class Summary(Progress):
    """The result of a whole run."""

    outages: list[Outage] = Field(description="at most 1,000 of them")
    outage_count: int
    longest_outage_millis: float
    failures: int = Field(description="calls whose outcome was not `ok`")
    balance: Balance
    histograms: Histograms


class Started(Wire):
    type: Literal["started"] = "started"
    run: RunSpec


class Tick(Wire):
    type: Literal["tick"] = "tick"
    progress: Progress
    recent: Latency = Field(description="latency of the calls completed since the last tick")
    answered: dict[str, int] = Field(description="of these, the `ok` ones by cluster")
    failed: dict[str, int] = Field(description="of these, the others by outcome")
    new_pods: list[Who] = Field(description="seen for the first time since the last tick")


class OutageClosed(Wire):
    type: Literal["outage"] = "outage"
    outage: Outage


class Done(Wire):
    type: Literal["done"] = "done"
    ended: Literal["complete", "stopped"] = Field(description="`stopped`: before all calls were made")
    reason: str | None = None
    summary: Summary


class Failed(Wire):
    type: Literal["failed"] = "failed"
    reason: str


Event = Annotated[Started | Tick | OutageClosed | Done | Failed, Field(discriminator="type")]
EVENT_KINDS = (Started, Tick, OutageClosed, Done, Failed)
