"""Sums the summaries of several runs into one: how more load is made than one pod can make."""

from collections import Counter
from collections.abc import Iterable, Sequence

from hdrh.histogram import HdrHistogram

from caller.run.engine import Histograms, Latency, PeerStats, Spread, Summary, encoded, evenness, histogram, latency_of


def merged(summaries: Sequence[Summary]) -> Summary:
    """One summary of runs that went on at the same time: counts and rates add up, histograms are added.

    Gaps are kept as they were seen, each by its own run; the longest of them is the longest.
    """
    latency = summed(summary.histograms.latency for summary in summaries)
    service_time = summed(summary.histograms.service_time for summary in summaries)
    lateness = summed({"": summary.histograms.lateness} for summary in summaries)[""]
    gaps = [gap for summary in summaries for gap in summary.gaps]
    spread = Spread(
        clusters=added(summary.spread.clusters for summary in summaries),
        zones=added(summary.spread.zones for summary in summaries),
        pods=added(summary.spread.pods for summary in summaries),
    )
    return Summary(
        elapsed_seconds=max(summary.elapsed_seconds for summary in summaries),
        offered=sum(summary.offered for summary in summaries),
        sent=sum(summary.sent for summary in summaries),
        left_out=sum(summary.left_out for summary in summaries),
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
        spread=spread,
        lateness=latency_of(lateness),
        gaps=gaps,
        gap_count=sum(summary.gap_count for summary in summaries),
        longest_gap_millis=max(summary.longest_gap_millis for summary in summaries),
        failures=sum(summary.failures for summary in summaries),
        evenness=evenness(spread.pods),
        histograms=Histograms(
            latency={cluster: encoded(found) for cluster, found in latency.items()},
            service_time={cluster: encoded(found) for cluster, found in service_time.items()},
            lateness=encoded(lateness),
        ),
    )


def time_of(histograms: dict[str, HdrHistogram], cluster: str) -> Latency:
    return latency_of(histograms[cluster]) if cluster in histograms else Latency(count=0)


def summed(maps: Iterable[dict[str, str]]) -> dict[str, HdrHistogram]:
    """Encoded histograms by name, added up name by name.

    :raises ValueError: a text is no encoded histogram.
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
