"""The page of a run: watched live while a producer goes and comes back, stopped, cut off, refused; its chart."""

import json
import re
import signal
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from lab.processes import CALLER, CENTRAL, PRODUCER, WEST, Service, free_port, running
from tests.support.browser import (
    FORMATS,
    assert_fits_and_is_accessible,
    entries,
    in_front_of,
    opened,
    outcome,
    run,
    show,
    submit,
    unfold,
    verdict,
)

SHORT = {"message": {"payload": ""}, "rate": 20, "durationSeconds": 1}


@pytest.fixture(scope="module")
def caller() -> Iterator[Service]:
    """Its first target is in another cluster, its second in its own."""
    with (
        running(PRODUCER, POD_NAME="pod-central", **CENTRAL) as there,
        running(PRODUCER, POD_NAME="pod-west", **WEST) as here,
        running(CALLER, PRODUCER_URL=there.url, COMPARE_URLS=here.url, **WEST) as service,
    ):
        yield service


@pytest.fixture
def page(browser: Browser, caller: Service) -> Iterator[Page]:
    with opened(browser, caller.url) as page:
        page.fill("#delay", "0")
        yield page


def numbers(page: Page) -> tuple[list[str], list[list[str]]]:
    """The chart's numbers as a table: the heads of its columns, and its rows."""
    table = page.locator("[data-part=numbers] table")
    if not table.is_visible():
        page.get_by_text("The same as a table").click()
    rows = table.locator("tbody tr").evaluate_all("rows => rows.map(row => [...row.cells].map(c => c.textContent))")
    return table.locator("thead th").all_inner_texts(), rows


def spread(page: Page, caption: str) -> dict[str, list[str]]:
    """Name → calls and share."""
    rows = page.locator("[data-part=spread] table", has_text=caption).locator("tbody tr")
    names = rows.locator("[data-part=name]").all_inner_texts()
    return {name: row.locator("td:not(.track)").all_inner_texts() for name, row in zip(names, rows.all(), strict=True)}


def start_run(page: Page, **fields: str) -> Locator:
    """Start a run and wait until its first calls are shown; its bar."""
    show(page, "Run")
    for name, value in fields.items():
        page.fill(f"#{name}", value)
    page.click("#start")
    expect(page.locator("[data-part=going]")).to_contain_text("in flight", timeout=15_000)
    return page.get_by_role("progressbar", name="Calls that were due")


def test_a_producer_that_goes_and_comes_back_during_a_run_is_seen_as_a_gap(browser: Browser) -> None:
    port = str(free_port())
    with (
        running(PRODUCER, PORT=port, POD_NAME="pod-1", **CENTRAL) as first,
        running(CALLER, PRODUCER_URL=first.url, **WEST) as caller,
        opened(browser, caller.url) as page,
    ):
        page.fill("#delay", "0")
        bar = start_run(page, rate="20", durationSeconds="120")
        expect(bar).to_be_visible()
        expect(page.locator("[data-part=verdict]")).to_contain_text("Cross-cluster: yes")
        assert page.inner_text("[data-part=more]") == "so far"
        assert page.get_attribute("#verdict", "data-tone") == "none", "nothing is well before it is over"
        first.stop(signal.SIGKILL)
        expect(page.locator("[data-part=totals]")).to_contain_text("refused")
        expect(page.locator("#verdict")).to_have_attribute("data-tone", "failed")
        with running(PRODUCER, PORT=port, POD_NAME="pod-2", **CENTRAL):
            gaps = page.locator("[data-part=gaps] li")
            expect(gaps).to_have_count(1, timeout=90_000)
            expect(page.locator("[data-part=spread]")).to_contain_text("pod-2")
            page.click("#stop")
            expect(page.locator("#start")).to_be_enabled()

        sentence = page.inner_text("#run-sentence")
        found = re.fullmatch(
            r"stopped: (\d+) calls, all answers from producer-cluster, (\d+) failed \(.+\), "
            r"one gap of ([\d.]+ s) after pod pod-1 stopped answering",
            sentence,
        )
        assert found, sentence
        calls, lost, length = found.groups()
        assert outcome_of_run(page) == "fail"
        assert verdict(page) == f"{lost} of {calls} calls failed"
        assert gaps.inner_text().startswith(f"{length} at ")
        assert re.search(r"before it pod-1 \(.+ .+\) in producer-cluster, now pod-2 \(.+ .+\) in", gaps.inner_text())
        chart = page.get_by_role("img", name=sentence)
        assert chart.locator(".gap-text").all_text_contents() == [length]
        assert chart.locator(".failed").get_attribute("d")
        assert set(spread(page, "By pod")) == {"pod-1", "pod-2"}


def outcome_of_run(page: Page) -> str | None:
    return page.get_attribute("#run-sentence", "data-outcome")


def test_a_run_without_failures_says_who_answered_how_often_and_how_fast(page: Page) -> None:
    sentence = run(page, rate="50", durationSeconds="2")
    assert sentence == "complete: 100 calls, all answers from producer-cluster, none failed"
    assert outcome_of_run(page) == "ok"
    assert verdict(page) == "Cross-cluster: yes, 100 of 100 answers"
    assert page.inner_text("[data-part=way]") == "caller-cluster → producer-cluster (100%)"
    expect(page.get_by_role("progressbar")).to_have_count(0)
    assert entries(page, "totals")["Came back"].startswith("100 in ")
    assert spread(page, "By cluster") == {"producer-cluster": ["100", "100%"]}
    assert page.get_by_text("none: no call failed").is_visible()
    latency = page.locator("[data-part=latency] tr")
    assert latency.locator("th").all_inner_texts() == ["producer-cluster"]
    p50, p90, p99, most = (float(text.replace(",", "")) for text in latency.locator("td").all_inner_texts())
    assert 0 < p50 <= p90 <= p99 <= most


def test_the_chart_and_its_table_have_the_same_numbers(page: Page) -> None:
    page.fill("#responseCode", "503")
    page.get_by_text("Where the fault applies, and the time-out").click()
    run(page, rate="50", durationSeconds="2", faultRate="0.5")
    heads, rows = numbers(page)
    assert heads == ["From (s)", "producer-cluster", "failed", "p50 (ms)", "p99 (ms)"]
    totals = entries(page, "totals")
    assert sum(int(row[1]) for row in rows) == int(totals["ok"])
    assert sum(int(row[2]) for row in rows) == int(totals["http_error"])
    chart = page.get_by_role("img", name=re.compile("^complete: 100 calls"))
    for kind, column in (("calls", 1), ("failed", 2)):
        path = chart.locator(f"path.{kind}").get_attribute("d") or ""
        assert path.count("M") == sum(row[column] != "0" for row in rows), "a bar for each stretch that has some"


def test_all_targets_in_turn_are_two_clusters_in_two_colours(page: Page) -> None:
    show(page, "Run")
    page.check("#allTargets")
    sentence = run(page, rate="20", durationSeconds="2")
    assert sentence.startswith("complete: 40 calls, 2 clusters, none failed")
    assert verdict(page) == "Cross-cluster: partly, 20 of 40 answers"
    assert spread(page, "By cluster") == {"producer-cluster": ["20", "50%"], "caller-cluster": ["20", "50%"]}
    swatches = page.locator("[data-part=legend] [data-swatch=calls]")
    assert swatches.all_inner_texts() == ["caller-cluster", "producer-cluster"]
    colors = swatches.evaluate_all("all => all.map(one => getComputedStyle(one, '::before').backgroundColor)")
    paths = page.locator(".chart .calls")
    assert len(set(colors)) == 2
    assert paths.evaluate_all("all => all.map(one => getComputedStyle(one).fill)") == colors
    assert paths.locator("title").all_text_contents() == swatches.all_inner_texts()


def test_a_run_can_be_stopped_and_what_it_found_so_far_stays(page: Page) -> None:
    start_run(page, rate="20", durationSeconds="60")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#run-sentence")).to_have_text(re.compile(r"^stopped: \d+ calls, all answers"))
    assert outcome_of_run(page) == "warn"
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    expect(page.locator("#start")).to_be_enabled()
    assert page.locator(".chart").is_visible()


def test_by_the_keyboard_alone_a_run_is_started_and_stopped(page: Page) -> None:
    page.focus("[data-shows=run]")
    page.keyboard.press("Enter")
    expect(page.locator("[data-shows=run]")).to_have_attribute("aria-current", "true")
    page.focus("#durationSeconds")
    page.keyboard.press("Control+a")
    page.keyboard.type("60")
    page.keyboard.press("Enter")
    expect(page.locator("[data-part=going]")).to_contain_text("in flight")
    page.focus("#start") if page.locator("#start").is_enabled() else None
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "stop":
            break
    page.keyboard.press("Space")
    expect(page.locator("#run-sentence")).to_contain_text("stopped: ")


def test_a_call_during_a_run_leaves_the_run_alone(page: Page) -> None:
    start_run(page, rate="20", durationSeconds="4")
    show(page, "Call")
    assert submit(page).startswith("ok: ")
    assert verdict(page) == "Cross-cluster: yes"
    expect(page.locator("#said")).to_contain_text("run complete: 80 calls", timeout=15_000)
    assert verdict(page) == "Cross-cluster: yes", "the verdict of the view that is open"
    show(page, "Run")
    assert verdict(page) == "Cross-cluster: yes, 80 of 80 answers"
    width = page.locator(".chart").evaluate("chart => chart.viewBox.baseVal.width - chart.clientWidth")
    assert abs(width) < 2, "drawn for the room there is"


def test_however_often_it_is_submitted_there_is_one_call_and_one_run(page: Page) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.fill("#delay", "1000")
    page.press("#delay", "Enter")
    for _ in range(3):
        page.press("#delay", "Enter")
        page.evaluate("document.querySelector('form').requestSubmit()")
    expect(page.locator("#sentence")).to_contain_text("ok: 200")
    show(page, "Run")
    page.fill("#durationSeconds", "2")
    page.press("#durationSeconds", "Enter")
    for _ in range(3):
        page.press("#durationSeconds", "Enter")
        page.evaluate("document.querySelector('form').requestSubmit()")
    expect(page.locator("#run-sentence")).to_contain_text("complete: 40 calls", timeout=20_000)
    assert [url.rpartition("/")[2] for url in sent] == ["messages", "runs"]


def test_a_run_too_many_is_refused_and_says_when_to_try_again(browser: Browser, caller: Service) -> None:
    with (
        running(CALLER, PRODUCER_URL=caller.url, RUN_MAX_ACTIVE="0", **WEST) as full,
        opened(browser, full.url) as page,
    ):
        sentence = run(page)
        refusal = httpx.post(f"{full.url}/caller/runs", json=SHORT, trust_env=False)
        assert refusal.status_code == 429
        again = refusal.headers["retry-after"]
        assert sentence == f"problem: the caller answered 429 Too Many Requests; again in {again} s"
        assert page.inner_text("#problem") == refusal.json()["detail"]
        assert page.locator("#verdict").get_attribute("data-tone") == "failed"
        expect(page.locator("#run-shown")).to_be_hidden()


def test_limits_of_a_run_are_the_forms_and_what_the_caller_refuses_is_marked(page: Page) -> None:
    show(page, "Run")
    expect(page.locator("#rate-hint")).to_have_text("at most 200")
    expect(page.locator("#durationSeconds-hint")).to_have_text("at most 600")
    page.fill("#rate", "201")
    page.press("#rate", "Enter")
    expect(page.locator("#rate")).to_be_focused()
    expect(page.locator("#rate-error")).to_contain_text("200")
    assert page.inner_text("#run-sentence") == "no run yet"
    page.locator("form").evaluate("form => { form.noValidate = true }")
    page.press("#rate", "Enter")
    expect(page.locator("#run-sentence")).to_contain_text("problem: the caller answered 422")
    expect(page.locator("#rate-error")).to_contain_text("RUN_MAX_RATE")
    expect(page.locator("#rate")).to_have_attribute("aria-invalid", "true")


def events(caller: Service) -> list[str]:
    """The stream of a short run, an event each."""
    text = httpx.post(f"{caller.url}/caller/runs", json=SHORT, trust_env=False, timeout=30).text
    return [block for block in text.split("\n\n") if "data: " in block]


def test_a_stream_that_is_cut_off_says_so_and_is_no_run_that_is_well(browser: Browser, caller: Service) -> None:
    whole = events(caller)
    assert json.loads(whole[-1].partition("data: ")[2])["type"] == "done"
    half = "\n\n".join([*whole[:-1], whole[-1][:50]])
    replies = {"/caller/runs": (200, "text/event-stream", half)}
    with in_front_of(caller.url, replies) as url, opened(browser, url) as page:
        sentence = run(page)
        assert sentence.startswith("cut off (the stream ended before the run did; look at the time-outs of what is bet")
        assert outcome_of_run(page) == "fail"
        assert verdict(page) == "Run cut off"
        assert page.locator(".chart").is_visible()


@pytest.mark.parametrize(
    ("status", "kind", "text", "sentence"),
    [
        (502, "text/html", "<h1>no</h1>", "502: this reply did not come from the caller (text/html, server ingress)"),
        (200, "text/html", "<h1>hi</h1>", "200: this reply did not come from the caller (text/html, server ingress)"),
        (200, "text/event-stream", "data: <b>\n\n", None),
    ],
)
def test_what_is_no_run_of_the_caller_is_not_taken_for_one(
    browser: Browser, caller: Service, status: int, kind: str, text: str, sentence: str | None
) -> None:
    with in_front_of(caller.url, {"/caller/runs": (status, kind, text)}) as url, opened(browser, url) as page:
        found = run(page)
        assert found == sentence or (sentence is None and found.startswith("the caller did not answer: SyntaxError"))
        assert outcome_of_run(page) in ("foreign", "silent")
        expect(page.locator("#run-shown")).to_be_hidden()


def test_a_caller_that_stops_ends_its_run_and_the_page_says_why(browser: Browser, caller: Service) -> None:
    target = httpx.get(f"{caller.url}/caller/targets?dns=false", trust_env=False).json()["targets"][0]["name"]
    with (
        running(CALLER, PRODUCER_URL=target, DRAIN_SECONDS="1", **WEST) as leaving,
        opened(browser, leaving.url) as page,
    ):
        start_run(page, rate="20", durationSeconds="60", delay="0")
        leaving.process.terminate()
        expect(page.locator("#run-sentence")).to_contain_text("stopped (the caller is stopping)", timeout=20_000)
        assert outcome_of_run(page) == "warn"


def test_a_run_at_full_rate_leaves_the_page_responsive_and_its_memory_flat(page: Page) -> None:
    """Generous, for a busy machine."""
    page.evaluate(
        "() => { globalThis.longest = 0; new PerformanceObserver(list => { for (const { duration } of"
        " list.getEntries()) longest = Math.max(longest, duration) }).observe({ type: 'longtask' }) }"
    )
    session = page.context.new_cdp_session(page)

    def used() -> float:
        session.send("HeapProfiler.collectGarbage")
        return float(session.send("Runtime.getHeapUsage")["usedSize"])

    start_run(page, rate="200", durationSeconds="6")
    unfold(page)
    before = used()
    expect(page.locator("#start")).to_be_enabled(timeout=90_000)
    assert page.evaluate("longest") < 1000
    assert used() - before < 2_000_000


@pytest.mark.parametrize(("scheme", "width"), FORMATS)
def test_a_run_fits_and_is_accessible_while_it_goes_on_and_after(
    browser: Browser, caller: Service, scheme: str, width: int
) -> None:
    with opened(browser, caller.url, width=width, scheme=scheme, bypass_csp=True) as page:
        page.fill("#responseCode", "503")
        show(page, "Run")
        page.check("#allTargets")
        page.fill("#delay", "0")
        page.locator("form details").evaluate("details => { details.open = true }")
        start_run(page, rate="20", durationSeconds="30", faultRate="0.3")
        assert_fits_and_is_accessible(page)
        page.click("#stop")
        expect(page.locator("#start")).to_be_enabled()
        unfold(page)
        assert_fits_and_is_accessible(page)
        assert outcome(page) == "none", "no call was made"
