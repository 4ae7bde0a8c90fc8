"""The explanation of a call: DNS report, diagnosis, header diff, clock skew."""

import math

from pydantic import Field

from caller.explain.diagnosis import Diagnosis, diagnose
from caller.explain.dns import DnsReport, DnsReports
from caller.explain.header_diff import HeaderDiff, header_diff
from caller.hop.client import ProducerClient
from caller.hop.model import Hop
from caller.target import Target
from common.messages import Message, Wire


class ClockSkew(Wire):
    """The producer's clock minus the caller's, in ms; positive: the producer's is ahead.

    The reply was started after the request was sent and before the reply was received, so the skew lies between these
    two differences; the error of their middle is half the network time (RFC 5905, 8, with one exchange).
    """

    millis: float
    error_millis: float = Field(description="the skew is `millis` ± this")


class Explained(Hop):
    """A call with its explanation."""

    clock_skew: ClockSkew | None = Field(default=None, description="null: the reply has no `x-producer-time`")
    header_diff: HeaderDiff
    diagnosis: Diagnosis | None = Field(default=None, description="null: the call is `ok` without a warning")
    dns: DnsReport | None = Field(default=None, description="null: a reply came, so DNS was not queried")


class Explainer:
    """Explains the calls of a client."""

    def __init__(self, client: ProducerClient) -> None:
        self.client = client
        self.dns = DnsReports(client.resolver)

    async def explain(
        self, hop: Hop, message: Message, target: Target, timeout_seconds: float | None = None
    ) -> Explained:
        """The hop with its explanation; without a reply this queries DNS.

        :param timeout_seconds: of the call; default `CALL_TIMEOUT_SECONDS`.
        """
        dns, sanity_check = None, None
        if hop.answered_by.who == "none":
            dns, sanity_check = await self.dns.about(target)
        settings = self.client.settings
        diagnosis = diagnose(
            hop,
            target,
            message,
            dns=dns,
            sanity_check=sanity_check,
            last_seen=self.client.last_seen.get(target),
            timeouts=(settings.connect_timeout_seconds, timeout_seconds or settings.call_timeout_seconds),
        )
        return Explained(
            **vars(hop),
            clock_skew=clock_skew_of(hop),
            header_diff=header_diff(hop.sent_headers, hop.producer_headers, hop.returned_headers),
            diagnosis=diagnosis,
            dns=dns,
        )


def clock_skew_of(hop: Hop) -> ClockSkew | None:
    """From `x-producer-time`, which the producer reads after its delay and its work; None without it."""
    phases = hop.phases
    try:
        theirs = float(hop.returned_headers["x-producer-time"][0])
    except (KeyError, ValueError):
        return None
    before = sum(
        millis or 0 for millis in (phases.dns_millis, phases.connect_millis, phases.tls_millis, phases.send_millis)
    )
    earliest = hop.started_at * 1000 + before + (phases.producer_delay_millis or 0) + (phases.producer_work_millis or 0)
    latest = hop.started_at * 1000 + before + (phases.wait_millis or 0)
    skew = theirs * 1000 - (earliest + latest) / 2
    if not math.isfinite(skew):
        return None
    return ClockSkew(millis=round(skew, 3), error_millis=round(max(latest - earliest, 0) / 2, 3))
