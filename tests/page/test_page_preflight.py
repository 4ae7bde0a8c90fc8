"""The page before a call: the checks of every target, and what their names resolve to."""

import json
import re
import socket
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from lab.processes import CALLER, CENTRAL, PRODUCER, WEST, Service, free_port, running
from tests.support.browser import (
    FORMATS,
    assert_fits_and_is_accessible,
    entries,
    in_front_of,
    marks,
    opened,
    show,
    submit,
    unfold,
    verdict,
)

SHAPES = {"pass": "✓", "warn": "▲", "fail": "✕", "skip": "○"}


@pytest.fixture(scope="module")
def caller() -> Iterator[Service]:
    """Its first target refuses, its second answers."""
    with running(PRODUCER, **CENTRAL) as producer:
        other = f"http://127.0.0.1:{free_port()}"
        with running(CALLER, PRODUCER_URL=other, COMPARE_URLS=producer.url, **WEST) as service:
            yield service


@pytest.fixture
def page(browser: Browser, caller: Service) -> Iterator[Page]:
    with opened(browser, caller.url) as page:
        yield page


def press(page: Page, name: str) -> str:
    """Press a button of the view, wait for the end; the sentence."""
    show(page, "Checks")
    button = page.get_by_role("button", name=name)
    button.click()
    expect(button).to_be_enabled()
    return page.inner_text("#preflight-sentence")


def test_nothing_is_called_before_it_is_asked_for(browser: Browser, caller: Service) -> None:
    before = caller.output.count('"GET /caller/checks')
    with opened(browser, caller.url) as page:
        show(page, "Checks")
        assert page.inner_text("#preflight-sentence") == "not checked yet"
        expect(page.locator("#findings")).to_be_hidden()
    assert caller.output.count('"GET /caller/checks') == before


def test_the_checks_are_listed_by_target_each_verdict_a_word_and_a_shape(page: Page, caller: Service) -> None:
    sentence = press(page, "Run checks")
    report = httpx.get(f"{caller.url}/caller/checks", trust_env=False).json()

    assert re.fullmatch(r"fail: 1 fail, \d+ warn, \d+ pass, \d+ skip of \d+ checks, in [\d.]+ ms", sentence)
    assert page.get_attribute("#preflight-sentence", "data-outcome") == "fail"
    assert verdict(page) == "1 check failed"
    other = next(check for check in report["checks"] if check["verdict"] == "fail")["target"]
    assert page.inner_text("[data-part=way]").startswith(f"{other}, tcp: refused: ")
    groups = page.locator("#findings section")
    targets = list(dict.fromkeys(check["target"] for check in report["checks"]))
    assert groups.locator("h3").all_inner_texts() == ["The caller itself", *targets[1:]]
    checks = report["checks"]
    assert marks(groups) == [(check["verdict"], SHAPES[check["verdict"]]) for check in checks]
    assert {check["verdict"] for check in checks} == set(SHAPES)
    assert groups.locator("[data-part=check]").all_inner_texts() == [check["check"] for check in checks]
    steps = groups.locator("[data-part=nextStep]:visible").all_inner_texts()
    assert steps == [check["nextStep"] for check in checks if check["nextStep"]]


def test_names_are_looked_up_as_a_failed_call_shows_them(page: Page) -> None:
    assert press(page, "Look up names") == "names that resolve: 2 of 2"
    assert page.get_attribute("#preflight-sentence", "data-outcome") == "pass"
    assert verdict(page) == "Every name resolves"
    section = page.locator("#findings section").first
    assert section.locator("h3").inner_text().startswith("http://127.0.0.1:")
    assert entries(section, "facts")["A Lookup Costs"] == "nothing: it is an address"


def test_findings_and_a_call_keep_their_own_verdicts(page: Page) -> None:
    sentence = press(page, "Run checks")
    show(page, "Call")
    expect(page.locator("#findings")).to_be_hidden()
    assert verdict(page) == "No call yet"
    page.get_by_label("Target", exact=True).select_option(index=1)
    submit(page, delay="0")
    assert verdict(page) == "Cross-cluster: yes"
    show(page, "Checks")
    expect(page.locator("#findings")).to_be_visible()
    assert (verdict(page), page.inner_text("#preflight-sentence")) == ("1 check failed", sentence)


def test_checks_can_be_cancelled_and_the_focus_comes_back(browser: Browser) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        running(CALLER, PRODUCER_URL=f"127.0.0.1:{silent.getsockname()[1]}", **WEST) as caller,
        opened(browser, caller.url) as page,
    ):
        show(page, "Checks")
        page.focus("#run-checks")
        page.keyboard.press("Enter")
        expect(page.get_by_role("progressbar")).to_be_visible()
        expect(page.get_by_role("button", name="Look up names")).to_be_disabled()
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#preflight-sentence")).to_have_text("cancelled: it was given up")
        expect(page.locator("#run-checks")).to_be_focused()


@pytest.mark.parametrize("path", ["checks", "targets"])
def test_what_is_no_answer_of_the_caller_is_said_where_the_findings_would_be(
    browser: Browser, caller: Service, path: str
) -> None:
    replies = {f"/caller/{path}": (504, "text/html", "<h1>late</h1>")}
    with in_front_of(caller.url, replies) as url, opened(browser, url) as page:
        sentence = press(page, {"checks": "Run checks", "targets": "Look up names"}[path])
        assert sentence == "504: this reply did not come from the caller (text/html, server ingress)"
        expect(page.locator("#findings")).to_be_hidden()


def test_text_of_checks_is_never_taken_for_html(browser: Browser, caller: Service) -> None:
    markup = "<img src=x onerror=\"document.title='owned'\">"
    check = {
        "check": markup,
        "target": markup,
        "verdict": "warn",
        "evidence": markup,
        "nextStep": markup,
        "command": markup,
    }
    report = {"verdict": "warn", "checks": [check], "millis": 1}
    replies = {"/caller/checks": (200, "application/json", json.dumps(report))}
    with in_front_of(caller.url, replies) as url, opened(browser, url) as page:
        assert press(page, "Run checks") == "warn: 1 warn of 1 check, in 1 ms"
        assert page.inner_text("#findings [data-part=evidence]") == markup
        assert page.locator("#findings img").count() == 0
        assert page.title() == "Service caller"


@pytest.mark.parametrize(("scheme", "width"), FORMATS)
def test_findings_fit_and_are_accessible(browser: Browser, caller: Service, scheme: str, width: int) -> None:
    with opened(browser, caller.url, width=width, scheme=scheme, bypass_csp=True) as page:
        for name in ("Run checks", "Look up names"):
            press(page, name)
            unfold(page)
            assert_fits_and_is_accessible(page)


def test_in_forced_colors_what_is_meant_is_still_seen(browser: Browser, caller: Service) -> None:
    """The browser takes all backgrounds and most colours away: words, shapes and borders have to do."""
    with opened(browser, caller.url, forced_colors=True, bypass_csp=True) as page:
        submit(page, delay="0")
        assert_fits_and_is_accessible(page)
        sign = "element => getComputedStyle(element, '::before').content"
        assert "✕" in page.locator("[data-part=verdict]").evaluate(sign)
        assert page.locator("#verdict").evaluate("banner => getComputedStyle(banner).borderStyle") == "solid"
        press(page, "Run checks")
        tabs = page.get_by_role("navigation").get_by_role("button")
        colors = tabs.evaluate_all("tabs => tabs.map(tab => getComputedStyle(tab).borderBlockEndColor)")
        assert [name for name, color in zip(tabs.all_inner_texts(), colors, strict=True) if color != colors[0]] == [
            "Checks"
        ]
        assert {shape for _, shape in marks(page.locator("#findings"))} == set(SHAPES.values())
        assert_fits_and_is_accessible(page)
