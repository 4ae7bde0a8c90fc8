"""Does the fault apply to this call, here?"""

from random import Random

from common.messages import ClusterMetadata, Message, Only


class Faults:
    """A fair coin per call, `faultRate` of the way; seedable."""

    def __init__(self, seed: int | None = None) -> None:
        self.coin = Random(seed)

    def apply(self, message: Message, here: ClusterMetadata) -> bool:
        """Whether this call gets the message's delay and status, rather than 200 at once."""
        return matches(message.only, here) and self.coin.random() < message.fault_rate


def matches(only: Only | None, here: ClusterMetadata) -> bool:
    """Everything that `only` names is so here; naming nothing matches everywhere."""
    if only is None:
        return True
    return all(getattr(here, name) == value for name, value in only.model_dump(exclude_none=True).items())
