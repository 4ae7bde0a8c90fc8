"""Where a process is in its life."""


class Lifecycle:
    """`ready` once the app has started, until the drain begins. Never asks anything outside the pod."""

    def __init__(self) -> None:
        self.started = False
        self.draining = False

    @property
    def ready(self) -> bool:
        return self.started and not self.draining
