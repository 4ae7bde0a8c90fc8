"""Writes the pictures of the page that the documents show, from a real pair in a real browser: `make screenshots`."""

import signal
import sys
from pathlib import Path

from playwright.sync_api import Page

from lab.processes import CALLER, CENTRAL, PRODUCER, WEST, free_port, running
from tests.support.browser import chromium, fill, opened, show, submit

IMAGES = Path(__file__).parent / "images"
CALLER_POD = WEST | {"POD_NAME": "sample-caller-v1-5f6d8c9b7-qwert"}
EXPORTED = "sample-producer.istio-apps.svc.clusterset.local"
WIDTH = 1280


def main() -> int:
    IMAGES.mkdir(exist_ok=True)
    port = str(free_port())
    there = {"PORT": port, "POD_NAME": "sample-producer-v1-7d9c5b8f6d-x2x7k"} | CENTRAL
    with (
        chromium() as browser,
        running(PRODUCER, **WEST, POD_NAME="sample-producer-v1-7d9c5b8f6d-8mq4r") as here,
        running(PRODUCER, **there) as producer,
        running(CALLER, **CALLER_POD, PRODUCER_URL=producer.url, COMPARE_URLS=EXPORTED) as caller,
        running(CALLER, **CALLER_POD, PRODUCER_URL=producer.url, COMPARE_URLS=here.url) as running_caller,
    ):
        with opened(browser, caller.url, width=WIDTH) as page:
            submit(page, delay="20")
            submit(page, delay="20")
            take(page, "call")
            page.get_by_label("Target", exact=True).select_option(index=1)
            submit(page)
            take(page, "failure", height=680)
            show(page, "Checks")
            page.click("#run-checks")
            page.wait_for_selector("#findings .checks")
            take(page, "checks")
        with opened(browser, running_caller.url, width=WIDTH) as page:
            show(page, "Run")
            page.check("#allTargets")
            fill(page, {"rate": "100", "durationSeconds": "14", "delay": "20"})
            page.click("#start")
            page.wait_for_timeout(5_000)
            producer.stop(signal.SIGKILL)
            with running(PRODUCER, **there | {"POD_NAME": "sample-producer-v1-7d9c5b8f6d-tz9wl"}):
                page.wait_for_selector("#start:enabled")
                page.wait_for_selector("#run-sentence:not([data-outcome=calling])")
                take(page, "run")
    return 0


def take(page: Page, name: str, height: int = 900) -> None:
    """The top of the page, where the verdict and its reasons are."""
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path, full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
    sys.stdout.write(f"{path.name}: {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    raise SystemExit(main())
