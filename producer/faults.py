"""Fault injection: whether a call gets the delay and the status of its message."""

from random import Random

from common.messages import ClusterMetadata, Message, Only


class Faults:
    """One random draw per call against `faultRate`; a seed makes the sequence repeatable."""

    def __init__(self, seed: int | None = None) -> None:
        self.random = Random(seed)

    def apply(self, message: Message, here: ClusterMetadata) -> bool:
        """Whether this call gets the message's delay and status instead of an immediate 200."""
        return matches(message.only, here) and self.random.random() < message.fault_rate


def matches(only: Only | None, here: ClusterMetadata) -> bool:
    """Whether every field that `only` names has that value here; without fields it matches everywhere."""
    if only is None:
        return True
    return all(getattr(here, name) == value for name, value in only.model_dump(exclude_none=True).items())
