"""Merges the summaries of concurrent runs into one: for more load than one pod can generate."""

from collections import Counter
from collections.abc import Iterable, Sequence

from hdrh.histogram import HdrHistogram

from caller.run.model import Distribution, Histograms, Latency, PeerStats, Summary
from caller.run.stats import balance, encoded, histogram, latency_of


def merged(summaries: Sequence[Summary]) -> Summary:
    """One summary of concurrent runs: the sum of counts, rates and histograms.

    Outages stay as each run saw them; the longest of them is the longest.
    """
    latency = summed(summary.histograms.latency for summary in summaries)
    service_time = summed(summary.histograms.service_time for summary in summaries)
    scheduling_delay = summed({"": summary.histograms.scheduling_delay} for summary in summaries)[""]
    outages = [outage for summary in summaries for outage in summary.outages]
    distribution = Distribution(
        clusters=added(summary.distribution.clusters for summary in summaries),
        zones=added(summary.distribution.zones for summary in summaries),
        pods=added(summary.distribution.pods for summary in summaries),
    )
    return Summary(
        elapsed_seconds=max(summary.elapsed_seconds for summary in summaries),
        offered=sum(summary.offered for summary in summaries),
        sent=sum(summary.sent for summary in summaries),
        dropped=sum(summary.dropped for summary in summaries),
        done=sum(summary.done for summary in summaries),
        in_flight=sum(summary.in_flight for summary in summaries),
        rate=round(sum(summary.rate for summary in summaries), 3),
        outcomes=added(summary.outcomes for summary in summaries),
        peers=[
            PeerStats(
                cluster=cluster, latency=latency_of(latency[cluster]), service_time=time_of(service_time, cluster)
            )
            for cluster in sorted(latency)
        ],
        distribution=distribution,
        scheduling_delay=latency_of(scheduling_delay),
        outages=outages,
        outage_count=sum(summary.outage_count for summary in summaries),
        longest_outage_millis=max(summary.longest_outage_millis for summary in summaries),
        failures=sum(summary.failures for summary in summaries),
        balance=balance(distribution.pods),
        histograms=Histograms(
            latency={cluster: encoded(found) for cluster, found in latency.items()},
            service_time={cluster: encoded(found) for cluster, found in service_time.items()},
            scheduling_delay=encoded(scheduling_delay),
        ),
    )


def time_of(histograms: dict[str, HdrHistogram], cluster: str) -> Latency:
    return latency_of(histograms[cluster]) if cluster in histograms else Latency(count=0)


def summed(maps: Iterable[dict[str, str]]) -> dict[str, HdrHistogram]:
    """The sum of encoded histograms, by name.

    :raises ValueError: a text is not an encoded histogram.
    """
    total: dict[str, HdrHistogram] = {}
    for named in maps:
        for name, text in named.items():
            try:
                total.setdefault(name, histogram()).decode_and_add(text.encode())
            except Exception as error:  # the library raises whatever base64, zlib and struct do
                raise ValueError(f"not an encoded HdrHistogram: {error}") from error
    return total


def added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for found in counts:
        total.update(found)
    return dict(total)
