"""A producer that lies, behind the page: markup, control characters, directions and far too much are shown as text."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest
from playwright.sync_api import Browser, Page, expect

from lab.processes import CALLER, WEST, Service, running
from tests.support.browser import (
    FORMATS,
    assert_fits_and_is_accessible,
    entries,
    opened,
    run,
    serving,
    show,
    submit,
    unfold,
)

MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script></title>"
OVERRIDE = "us-central1\u202egnp.\u2066x\u200b\ufeff"
OVERRIDE_SHOWN = "us-central1\\u202egnp.\\u2066x\\u200b\\ufeff"
CONTROL = "pod\x00\x07\x1b[31m\x7f"
CONTROL_SHOWN = "pod\\u0000\\u0007\\u001b[31m\\u007f"
LONG = "n" * 65_536


@contextmanager
def liar(**metadata: str) -> Iterator[str]:
    """A server whose replies have the marker header of the producer and any identity; its URL."""

    class Liar(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
            identity = {"clusterName": MARKUP, "zone": OVERRIDE, "podName": CONTROL, "namespace": LONG} | metadata
            status = sent.get("responseCode", 200)
            body = {
                "id": sent["id"],
                "received": sent["payload"],
                "headers": {MARKUP: [MARKUP], "x-long": [LONG]},
                "metadata": identity,
                "faultApplied": True,
            }
            content = json.dumps(body).encode()
            self.send_response_only(status)
            self.send_header("content-type", "application/json")
            self.send_header("x-answered-by", "sample-producer")
            self.send_header("via", f"1.1 {MARKUP}")
            self.send_header("server-timing", f'delay;dur=1e308, work;dur=-5, "{MARKUP}"')
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Liar) as url:
        yield url


@pytest.fixture(scope="module")
def caller() -> Iterator[Service]:
    with liar() as producer, running(CALLER, PRODUCER_URL=producer, **WEST) as service:
        yield service


@pytest.fixture
def page(browser: Browser, caller: Service) -> Iterator[Page]:
    with opened(browser, caller.url) as page:
        yield page


def assert_it_is_text(page: Page) -> None:
    assert page.title() == "Service caller"
    assert page.locator("img, script:not([src='app.js'])").count() == 0
    assert page.locator("body").evaluate("body => /[\\u202a-\\u202e\\u2066-\\u2069]/.test(body.innerText)") is False


def test_what_a_call_brings_is_text_and_nothing_in_it_is_invisible(page: Page) -> None:
    sentence = submit(page, delay="0")
    identity = entries(page, "producerMetadata")
    assert identity["Cluster Name"] == MARKUP
    assert identity["Zone"] == OVERRIDE_SHOWN
    assert identity["Pod"].startswith(f"{CONTROL_SHOWN} (")
    assert identity["Namespace"] == LONG
    assert sentence.endswith(MARKUP)
    assert page.inner_text("[data-part=way]").endswith(OVERRIDE_SHOWN)
    picture = page.locator(".route")
    assert MARKUP in (picture.locator("title").first.text_content() or "")
    assert picture.locator("image, img, script").count() == 0
    unfold(page)
    page.locator("[data-part=raw]").evaluate("raw => raw.remove()")
    assert_it_is_text(page)


def test_an_echo_is_shown_as_it_is_in_a_box_of_its_own(page: Page) -> None:
    payload = f"{MARKUP}\n{OVERRIDE}"
    submit(page, payload=payload, delay="0")
    assert page.text_content("[data-part=received]") == payload
    assert page.title() == "Service caller"


def test_what_a_run_brings_is_text(page: Page) -> None:
    sentence = run(page, rate="20", durationSeconds="1", delay="0")
    assert f"all answers from {MARKUP}" in sentence
    assert page.locator("[data-part=spread] [data-part=name]").all_inner_texts() == [
        MARKUP,
        OVERRIDE_SHOWN,
        CONTROL_SHOWN,
    ]
    assert page.locator("[data-part=legend] li").first.inner_text() == MARKUP
    unfold(page)
    assert_it_is_text(page)
    show(page, "History")
    assert_it_is_text(page)
    assert page.locator("[data-part=entries]").inner_text().count(MARKUP) == 1


def test_what_checks_bring_is_text(page: Page) -> None:
    show(page, "Checks")
    page.click("#run-checks")
    expect(page.locator("#preflight-sentence")).to_contain_text("checks, in ", timeout=20_000)
    assert MARKUP in page.inner_text("#findings")
    assert_it_is_text(page)


def test_names_without_end_make_no_page_without_end(browser: Browser) -> None:
    numbers = iter(range(1_000_000))

    class Crowd(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
            number = next(numbers)
            identity = {"clusterName": f"cluster-{number}", "zone": f"zone-{number}", "podName": f"pod-{number}"}
            body = {"id": sent["id"], "received": "", "headers": {}, "metadata": identity, "faultApplied": False}
            content = json.dumps(body).encode()
            self.send_response_only(200)
            self.send_header("content-type", "application/json")
            self.send_header("x-answered-by", "sample-producer")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with (
        serving(Crowd) as producer,
        running(CALLER, PRODUCER_URL=producer, **WEST) as caller,
        opened(browser, caller.url) as page,
    ):
        sentence = run(page, rate="50", durationSeconds="3")
        assert "150 clusters" in sentence
        pods = page.locator("[data-part=spread] table", has_text="By pod").locator("tbody tr")
        expect(pods).to_have_count(51)
        assert pods.last.inner_text().split() == ["100", "others", "100"]
        assert page.locator("#seen-podName option").count() == 20
        assert len(page.inner_text("[data-part=way]")) < 1_000
        assert page.locator("[data-part=legend] li").count() < 40


@pytest.mark.parametrize(("scheme", "width"), FORMATS)
def test_a_liar_cannot_make_the_page_wide_or_inaccessible(
    browser: Browser, caller: Service, scheme: str, width: int
) -> None:
    with opened(browser, caller.url, width=width, scheme=scheme, bypass_csp=True) as page:
        submit(page, payload=LONG, delay="0", responseCode="503")
        unfold(page)
        assert_fits_and_is_accessible(page)
        run(page, rate="20", durationSeconds="0.5")
        unfold(page)
        assert_fits_and_is_accessible(page)
