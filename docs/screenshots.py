"""Takes the screenshots in the documents, of real services in Chromium: `make screenshots`."""

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from lab.processes import CALLER, CENTRAL, PRODUCER, WEST, free_port, running

IMAGES = Path(__file__).parent / "images"
CALLER_POD = WEST | {"POD_NAME": "sample-caller-v1-5f6d8c9b7-qwert"}
EXPORTED = "sample-producer.istio-apps.svc.clusterset.local"
WIDTH, HEIGHT = 1280, 900


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
        with opened(browser, caller.url) as page:
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
        with opened(browser, running_caller.url) as page:
            show(page, "Run")
            page.check("#allTargets")
            fill(page, rate="100", durationSeconds="14", delay="20")
            page.click("#start")
            page.wait_for_timeout(5_000)
            producer.stop(signal.SIGKILL)
            with running(PRODUCER, **there | {"POD_NAME": "sample-producer-v1-7d9c5b8f6d-tz9wl"}):
                page.wait_for_selector("#start:enabled")
                page.wait_for_selector("#run-sentence:not([data-outcome=calling])")
                take(page, "run")
    return 0


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        if path is None:
            raise SystemExit("chromium is not installed (apt-get install chromium)")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-lcd-text"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, url: str) -> Iterator[Page]:
    context = browser.new_context(
        viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", reduced_motion="reduce"
    )
    try:
        page = context.new_page()
        page.goto(url)
        yield page
    finally:
        context.close()


def show(page: Page, view: str) -> None:
    page.get_by_role("navigation").get_by_role("button", name=view, exact=True).click()


def submit(page: Page, **fields: str) -> None:
    """Fill in the fields, make a call, and wait for its end."""
    fill(page, **fields)
    page.click("#submit")
    expect(page.locator("#submit")).to_be_enabled()


def fill(page: Page, **fields: str) -> None:
    for name, value in fields.items():
        page.fill(f"#{name}", value)


def take(page: Page, name: str, height: int = HEIGHT) -> None:
    """A screenshot of the top of the page, which has the verdict and its reasons."""
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path, full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
    sys.stdout.write(f"{path.name}: {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    raise SystemExit(main())
