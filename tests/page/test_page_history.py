"""The page's history: kept over a reload, shown again, two runs laid over each other, and what storage may do to it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from lab.processes import CALLER, CENTRAL, PRODUCER, WEST, Service, free_port, running
from tests.support.browser import (
    FORMATS,
    assert_fits_and_is_accessible,
    marks,
    opened,
    run,
    show,
    submit,
    verdict,
)

KEY = "sample-caller-history-2"


@pytest.fixture(scope="module")
def caller() -> Iterator[Service]:
    """Its first target answers, its second refuses."""
    with (
        running(PRODUCER, POD_NAME="pod-1", **CENTRAL) as producer,
        running(CALLER, PRODUCER_URL=producer.url, COMPARE_URLS=f"http://127.0.0.1:{free_port()}", **WEST) as service,
    ):
        yield service


@pytest.fixture
def page(browser: Browser, caller: Service) -> Iterator[Page]:
    with opened(browser, caller.url) as page:
        page.fill("#delay", "0")
        yield page


def listed(page: Page) -> list[str]:
    """What came of each, the newest first."""
    texts: list[str] = page.locator("[data-part=entries] tr").evaluate_all(
        "rows => rows.map(row => row.cells[1].textContent.replace(/\\s+/g, ' ').trim())"
    )
    return texts


def kept(page: Page) -> list[Any]:
    entries: list[Any] = json.loads(page.evaluate(f"sessionStorage.getItem('{KEY}')") or "[]")
    return entries


def test_a_reload_keeps_calls_and_runs_and_each_can_be_seen_again_with_its_form(page: Page) -> None:
    show(page, "History")
    assert page.get_by_text("nothing yet").is_visible()
    show(page, "Call")
    first = submit(page, payload="first", responseCode="503")
    ran = run(page, rate="10", durationSeconds="1")
    page.goto(page.url.split("#")[0])
    page.reload()
    show(page, "History")
    assert listed(page) == [f"run {ran}", f"call {first}"]
    assert [shape for _, shape in marks(page.locator("[data-part=entries]"))] == ["✕", "✕"]

    page.get_by_role("button", name="Show call").click()
    assert page.get_attribute("[data-shows=call]", "aria-current") == "true"
    assert (page.inner_text("#sentence"), page.inner_text("[data-part=received]")) == (first, "first")
    assert (page.input_value("#payload"), page.input_value("#responseCode")) == ("first", "503")
    assert verdict(page).startswith("http_error: ")
    show(page, "History")
    page.get_by_role("button", name="Show run").click()
    assert page.inner_text("#run-sentence") == ran
    assert page.input_value("#rate") == "10"
    assert page.get_by_role("img", name=ran).is_visible()


def test_two_runs_are_laid_over_each_other_with_their_figures(page: Page) -> None:
    good = run(page, rate="20", durationSeconds="1")
    page.get_by_label("Target", exact=True).select_option(index=1)
    bad = run(page, rate="10", durationSeconds="1")
    page.get_by_label("Target", exact=True).select_option(index=0)
    run(page, rate="30", durationSeconds="1")
    show(page, "History")
    boxes = page.get_by_role("checkbox", name=re.compile("Compare run of"))
    expect(boxes).to_have_count(3)
    comparison = page.locator("#comparison")
    boxes.nth(1).check()
    expect(comparison).to_be_hidden()
    boxes.nth(2).check()
    expect(comparison).to_be_visible()
    chart = comparison.get_by_role("img", name=f"A: {good}; B: {bad}")
    assert (chart.locator(".run-a").count(), chart.locator(".run-b").count()) == (2, 2)
    rows = {
        row.locator("th").inner_text(): row.locator("td").all_inner_texts()
        for row in comparison.locator("tbody tr").all()
    }
    assert rows["Asked for"] == ["20 at 20/s", "10 at 10/s"]
    assert (rows["ok"], rows["refused"]) == (["20", "–"], ["–", "10"])
    boxes.nth(0).check()
    assert [box.is_checked() for box in boxes.all()] == [True, False, True], "two at most, the oldest choice goes"


def test_the_history_is_of_this_tab_and_can_be_forgotten(page: Page, browser: Browser, caller: Service) -> None:
    submit(page)
    show(page, "History")
    page.get_by_role("button", name="Forget all").click()
    assert listed(page) == []
    assert kept(page) == []
    assert page.evaluate("document.activeElement.dataset.shows") == "history"
    with opened(browser, caller.url) as other:
        show(other, "History")
        assert listed(other) == []


def test_the_history_is_bounded_in_number_and_in_size(page: Page) -> None:
    submit(page)
    page.evaluate(
        f"""() => {{
            const [entry] = JSON.parse(sessionStorage.getItem('{KEY}'));
            const many = Array.from({{ length: 50 }}, (_, index) => ({{ ...entry, text: `old ${{index}}` }}));
            sessionStorage.setItem('{KEY}', JSON.stringify(many));
        }}"""
    )
    page.reload()
    page.fill("#delay", "0")
    newest = submit(page)
    show(page, "History")
    assert len(listed(page)) == len(kept(page)) == 50
    assert (listed(page)[0], listed(page)[-1]) == (f"call {newest}", "call old 48")
    page.evaluate(
        f"""() => {{
            const entries = JSON.parse(sessionStorage.getItem('{KEY}'));
            for (const entry of entries) entry.hop.received = 'x'.repeat(65_536);
            sessionStorage.setItem('{KEY}', JSON.stringify(entries));
        }}"""
    )
    page.reload()
    page.fill("#delay", "0")
    submit(page)
    assert 20 < len(kept(page)) < 40
    assert page.evaluate(f"sessionStorage.getItem('{KEY}').length") <= 2_001_000


def test_without_room_in_the_storage_the_history_lasts_until_the_reload(page: Page) -> None:
    page.evaluate(
        """() => {
            for (let size = 1 << 20; size; size >>= 1) {
                for (let number = 0; ; number++) {
                    try { sessionStorage.setItem(`full-${size}-${number}`, 'x'.repeat(size)); } catch { break; }
                }
            }
        }"""
    )
    first, second = submit(page, payload="one"), submit(page, payload="two")
    show(page, "History")
    assert listed(page) == [f"call {second}", f"call {first}"]
    page.get_by_role("button", name="Show call").last.click()
    assert page.inner_text("[data-part=received]") == "one"
    assert kept(page) == []


@pytest.mark.parametrize(
    "left",
    [
        "{",
        "null",
        '{"a": 1}',
        '[null, 1, "x", {}, {"kind": "call"}]',
        '[{"kind":"call","at":1e99,"text":"x","link":"","outcome":"ok","hop":{"answeredBy":{}}}]',
    ],
)
def test_what_another_page_left_in_the_storage_does_no_harm(page: Page, left: str) -> None:
    page.evaluate("left => sessionStorage.setItem('" + KEY + "', left)", left)
    page.reload()
    page.fill("#delay", "0")
    sentence = submit(page)
    show(page, "History")
    assert listed(page) == [f"call {sentence}"]


@pytest.mark.parametrize(("scheme", "width"), FORMATS)
def test_the_history_fits_and_is_accessible(browser: Browser, caller: Service, scheme: str, width: int) -> None:
    with opened(browser, caller.url, width=width, scheme=scheme, bypass_csp=True) as page:
        submit(page, delay="0")
        for _ in range(2):
            run(page, rate="20", durationSeconds="0.5")
        show(page, "History")
        assert_fits_and_is_accessible(page)
        for box in page.get_by_role("checkbox", name=re.compile("Compare run of")).all():
            box.check()
        expect(page.locator("#comparison")).to_be_visible()
        assert_fits_and_is_accessible(page)
