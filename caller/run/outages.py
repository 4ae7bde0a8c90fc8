from collections import Counter, deque

from caller.hop.outcome import Outcome
from caller.run.model import Outage, Who


class OutageDetector:
    """Detects outages of one target. Calls count in the order of their start, and complete in any order."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.pending: deque[int] = deque()
        """Calls in the order of their start, from the first that has not completed."""
        self.ahead: dict[int, tuple[float, Outcome, Who | None]] = {}
        """Calls that completed before an earlier one."""
        self.last_answer: Who | None = None
        self.since: float | None = None
        """Intended start of the first failed call; None: no outage is open."""
        self.outcomes: Counter[str] = Counter()

    def started(self, number: int) -> None:
        self.pending.append(number)

    def completed(self, number: int, intended: float, outcome: Outcome, who: Who | None) -> list[Outage]:
        """The outages that are known to be closed now."""
        self.ahead[number] = (intended, outcome, who)
        outages = []
        while self.pending and self.pending[0] in self.ahead:
            if outage := self.follow(*self.ahead.pop(self.pending.popleft())):
                outages.append(outage)
        return outages

    def follow(self, intended: float, outcome: Outcome, who: Who | None) -> Outage | None:
        """The next call in the order of starts; the outage that it closes."""
        if outcome is not Outcome.OK:
            if self.since is None:
                self.since = intended
            self.outcomes[outcome] += 1
            return None
        outage = None if self.since is None else self.close(self.since, intended, who)
        self.last_answer = who
        return outage

    def close(self, since: float, until: float, after: Who | None) -> Outage:
        outage = Outage(
            target=self.target,
            at_seconds=round(since, 3),
            millis=round((until - since) * 1000, 3),
            calls_lost=self.outcomes.total(),
            outcomes=dict(self.outcomes),
            before=self.last_answer,
            after=after,
        )
        self.since = None
        self.outcomes.clear()
        return outage

    def end(self, elapsed: float) -> list[Outage]:
        """At the end of the run: count calls that completed after one that never did, and close the open outage."""
        outages = []
        for number in sorted(self.ahead):
            if outage := self.follow(*self.ahead[number]):
                outages.append(outage)
        self.ahead.clear()
        self.pending.clear()
        if self.since is not None:
            outages.append(self.close(self.since, max(elapsed, self.since), None))
        return outages
