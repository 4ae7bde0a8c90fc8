"""The statistics of a run: counts, latency histograms, distribution over clusters, zones and pods, balance."""

import math
from collections import Counter
from collections.abc import Sequence

from hdrh.histogram import HdrHistogram

from caller.hop.metrics import MAX_PEERS
from caller.hop.model import Hop
from caller.hop.outcome import Outcome
from caller.run.model import Balance, Distribution, Histograms, Latency, Outage, PeerStats, Progress, Summary, Who
from caller.run.outages import OutageDetector
from common.messages import LOCAL

MAX_MICROS = 700_000_000
"""Highest latency of a histogram, above the longest timeout of a call; three significant digits."""
MAX_NAMES = 500
"""Clusters, zones or pods counted by name; further ones are `other`."""
MAX_OUTAGES = 1000
"""Outages listed in a summary; further ones are counted."""
MIN_CALLS_PER_POD = 5
"""Expected calls per pod below which the balance is not judged (the usual rule for a chi-squared test)."""


class Stats:
    """Statistics of a run in progress. Memory does not grow with the number of completed calls."""

    def __init__(self, targets: Sequence[str]) -> None:
        self.offered = self.sent = self.dropped = self.done = 0
        self.outcomes: Counter[str] = Counter()
        self.latency: dict[str, HdrHistogram] = {}
        self.service_time: dict[str, HdrHistogram] = {}
        self.scheduling_delay = histogram()
        self.recent = histogram()
        self.recently_answered: Counter[str] = Counter()
        self.recently_failed: Counter[str] = Counter()
        self.distribution = Distribution(clusters={}, zones={}, pods={})
        self.cluster_of: dict[str, str | None] = {}
        self.new_pods: list[Who] = []
        self.outages: list[Outage] = []
        self.outage_count = 0
        self.longest_outage = 0.0
        self.starting_seconds: float | None = None
        self.detectors = {name: OutageDetector(name) for name in targets}

    @property
    def in_flight(self) -> int:
        return self.sent - self.done

    def drop(self, calls: int) -> None:
        self.offered += calls
        self.dropped += calls

    def start(self, target: str, number: int, scheduling_delay: float) -> None:
        self.offered += 1
        self.sent += 1
        self.detectors[target].started(number)
        record(self.scheduling_delay, scheduling_delay)

    def end(self, target: str, number: int, intended: float, latency: float, hop: Hop) -> list[Outage]:
        """Count a completed call; the outages that it closes."""
        self.done += 1
        self.outcomes[hop.outcome] += 1
        who = who_answered(hop)
        cluster = who.cluster if who and who.cluster else "unknown"
        if cluster not in self.latency:
            cluster = cluster if len(self.latency) < MAX_PEERS else "other"
            self.latency.setdefault(cluster, histogram())
            self.service_time.setdefault(cluster, histogram())
        record(self.latency[cluster], latency)
        record(self.recent, latency)
        record(self.service_time[cluster], hop.round_trip_time_millis / 1000)
        if hop.outcome is Outcome.OK:
            self.recently_answered[cluster] += 1
        else:
            self.recently_failed[hop.outcome] += 1
        if who is not None:
            self.count(who)
        return self.keep(self.detectors[target].completed(number, intended, hop.outcome, who))

    def cut_off(self, target: str, number: int, intended: float) -> list[Outage]:
        """Count a call that was cancelled when the run was stopped."""
        self.done += 1
        self.outcomes[Outcome.CANCELLED] += 1
        self.recently_failed[Outcome.CANCELLED] += 1
        return self.keep(self.detectors[target].completed(number, intended, Outcome.CANCELLED, None))

    def keep(self, outages: list[Outage]) -> list[Outage]:
        self.outage_count += len(outages)
        self.longest_outage = max([self.longest_outage, *(outage.millis for outage in outages)])
        self.outages += outages[: MAX_OUTAGES - len(self.outages)]
        return outages

    def count(self, who: Who) -> None:
        pod = who.pod
        if pod is not None:
            # A StatefulSet has pods of the same names in every cluster.
            if self.cluster_of.get(pod, who.cluster) != who.cluster:
                pod = f"{pod} in {who.cluster}"
            if pod not in self.distribution.pods and len(self.distribution.pods) < MAX_NAMES:
                self.cluster_of[pod] = who.cluster
                self.new_pods.append(who)
        for names, name in (
            (self.distribution.clusters, who.cluster or "unknown"),
            (self.distribution.zones, who.zone or "unknown"),
            (self.distribution.pods, pod or "unknown"),
        ):
            known = name if name in names or len(names) < MAX_NAMES else "other"
            names[known] = names.get(known, 0) + 1

    def take_recent(self) -> Latency:
        recent, self.recent = self.recent, histogram()
        return latency_of(recent)

    def take(self, counter: Counter[str]) -> dict[str, int]:
        taken = dict(counter)
        counter.clear()
        return taken

    def take_new_pods(self) -> list[Who]:
        pods, self.new_pods = self.new_pods, []
        return pods

    def end_outages(self, elapsed: float) -> list[Outage]:
        """The outages that are open at the end of the run."""
        return self.keep([outage for detector in self.detectors.values() for outage in detector.end(elapsed)])

    def progress(self, elapsed: float) -> Progress:
        return Progress(
            elapsed_seconds=round(elapsed, 3),
            offered=self.offered,
            sent=self.sent,
            dropped=self.dropped,
            done=self.done,
            in_flight=self.in_flight,
            rate=round(self.sent / (self.starting_seconds or elapsed), 3) if elapsed else 0,
            outcomes=dict(self.outcomes),
            peers=[
                PeerStats(
                    cluster=cluster, latency=latency_of(latency), service_time=latency_of(self.service_time[cluster])
                )
                for cluster, latency in sorted(self.latency.items())
            ],
            distribution=self.distribution.model_copy(deep=True),
            scheduling_delay=latency_of(self.scheduling_delay),
        )

    def summary(self, elapsed: float) -> Summary:
        return Summary(
            **dict(self.progress(elapsed)),
            outages=self.outages,
            outage_count=self.outage_count,
            longest_outage_millis=self.longest_outage,
            failures=self.done - self.outcomes[Outcome.OK],
            balance=balance(self.distribution.pods),
            histograms=Histograms(
                latency={cluster: encoded(found) for cluster, found in self.latency.items()},
                service_time={cluster: encoded(found) for cluster, found in self.service_time.items()},
                scheduling_delay=encoded(self.scheduling_delay),
            ),
        )


def who_answered(hop: Hop) -> Who | None:
    there = hop.producer_metadata
    if there is None:
        return None
    return Who(
        **{
            name: value if value != LOCAL else None
            for name, value in (("cluster", there.cluster_name), ("zone", there.zone), ("pod", there.pod_name))
        }
    )


def histogram() -> HdrHistogram:
    return HdrHistogram(1, MAX_MICROS, 3)


def record(found: HdrHistogram, seconds: float) -> None:
    found.record_value(min(max(int(seconds * 1e6), 1), MAX_MICROS))


def latency_of(found: HdrHistogram) -> Latency:
    if not found.get_total_count():
        return Latency(count=0)
    values = found.get_percentile_to_value_dict([50, 90, 99])
    return Latency(
        count=found.get_total_count(),
        p50_millis=values[50] / 1000,
        p90_millis=values[90] / 1000,
        p99_millis=values[99] / 1000,
        max_millis=found.get_max_value() / 1000,
    )


def encoded(found: HdrHistogram) -> str:
    text: bytes = found.encode()
    return text.decode("ascii")


def balance(pods: dict[str, int]) -> Balance:
    """A chi-squared test against equal shares of the pods that answered, without those not counted by name."""
    counts = [count for name, count in pods.items() if name not in ("unknown", "other")]
    total = sum(counts)
    if not total:
        return Balance(verdict="no answers", pods=0)
    if len(counts) == 1:
        return Balance(verdict="one pod", pods=1)
    expected = total / len(counts)
    if expected < MIN_CALLS_PER_POD:
        return Balance(verdict="too few calls", pods=len(counts))
    chi_squared = sum((count - expected) ** 2 / expected for count in counts)
    p_value = chi_squared_tail(chi_squared, len(counts) - 1)
    return Balance(
        verdict="even" if p_value >= 0.01 else "uneven",
        pods=len(counts),
        chi_squared=round(chi_squared, 3),
        p_value=round(p_value, 6),
    )


def chi_squared_tail(value: float, freedom: int) -> float:
    """P(X > value), by the cube-root approximation of Wilson and Hilferty (1931); error about 0.01."""
    if value <= 0:
        return 1.0
    variance = 2 / (9 * freedom)
    normal = ((value / freedom) ** (1 / 3) - (1 - variance)) / variance**0.5
    return 0.5 * math.erfc(normal / math.sqrt(2))
