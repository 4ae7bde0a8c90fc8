"""The garbage collector, which would go through every imported function again and again, and find none to collect.

That takes a sixth of a start; later it holds up the event loop for tens of milliseconds, at any time.
"""

import gc


def pause() -> None:
    """For as long as a process is starting."""
    gc.disable()


def collect_from_now_on() -> None:
    """What there is now is kept for good; only what comes is looked at."""
    gc.freeze()
    gc.enable()
