"""The page: its files as they are, and what a real browser makes of them with real services behind it."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from lab.processes import CALLER, CENTRAL, PRODUCER, ROOT, WEST, Service, free_port, running
from tests.support.browser import (
    FORMATS,
    assert_fits_and_is_accessible,
    entries,
    header_table,
    in_front_of,
    opened,
    outcome,
    phases,
    submit,
    unfold,
    verdict,
)

STATIC = ROOT / "caller" / "static"
METADATA_LABELS = [
    "Cluster Name",
    "Cluster Location",
    "Host Name",
    "Ip Address",
    "Region",
    "Zone",
    "Pod",
    "Namespace",
    "Node",
    "Service Account",
    "Version",
]


class Tags(HTMLParser):
    """The tags of a page, each with its attributes, and the text inside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str]]] = []
        self.code = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.code += data

    def values(self, tag: str, attribute: str) -> list[str]:
        return [attributes[attribute] for name, attributes in self.all if name == tag and attribute in attributes]


@pytest.fixture(scope="module")
def html() -> Tags:
    return Tags((STATIC / "index.html").read_text())


def test_the_page_has_no_inline_script_style_or_handler(html: Tags) -> None:
    inline = [name for _, attributes in html.all for name in attributes if name == "style" or name.startswith("on")]
    assert (html.code, inline, "style" in dict(html.all)) == ("", [], False)


def test_every_label_belongs_to_a_field(html: Tags) -> None:
    fields = {identity for tag in ("input", "select", "textarea") for identity in html.values(tag, "id")}
    assert set(html.values("label", "for")) == fields


def test_every_identifier_is_there_once_and_what_refers_to_one_finds_it(html: Tags) -> None:
    identities = [attributes["id"] for _, attributes in html.all if "id" in attributes]
    referring = ("aria-labelledby", "aria-describedby")
    referred = {word for _, attributes in html.all for name in referring for word in attributes.get(name, "").split()}
    assert len(identities) == len(set(identities))
    assert referred <= set(identities)


def test_the_page_has_one_main_heading_a_language_and_landmarks(html: Tags) -> None:
    names = [name for name, _ in html.all]
    assert [names.count(name) for name in ("h1", "header", "main", "footer")] == [1, 1, 1, 1]
    assert html.values("html", "lang") == ["en"]


def test_every_file_is_referred_to_and_every_file_that_is_referred_to_exists(html: Tags) -> None:
    pending = [*html.values("link", "href"), *html.values("script", "src"), *html.values("img", "src")]
    found = {"index.html"}
    while pending:
        name = pending.pop().removeprefix("./")
        if name not in found:
            found.add(name)
            pending += re.findall(r'(?:from |url\()"([^"]+)"', (STATIC / name).read_text())
    assert found == {path.name for path in STATIC.iterdir()}


def test_nothing_comes_from_another_place() -> None:
    for path in STATIC.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"(?:https?:|['\"(])//", text) == [], path.name


@pytest.fixture(scope="module")
def producer() -> Iterator[Service]:
    with running(PRODUCER, **CENTRAL) as service:
        yield service


@pytest.fixture(scope="module")
def caller(producer: Service) -> Iterator[Service]:
    with running(CALLER, PRODUCER_URL=producer.url, **WEST) as service:
        yield service


@pytest.fixture
def page(browser: Browser, caller: Service) -> Iterator[Page]:
    with opened(browser, caller.url) as page:
        yield page


def test_the_form_has_the_originals_labels_and_defaults(page: Page) -> None:
    assert {
        label: page.get_by_label(label, exact=True).input_value()
        for label in ("Payload", "Delay (in ms)", "Response Status Code")
    } == {"Payload": "dummy payload", "Delay (in ms)": "100", "Response Status Code": "200"}
    assert page.get_by_role("button", name="Submit").is_enabled()
    assert page.get_by_label("Target", exact=True).is_visible()


def test_a_call_says_who_answered_from_where_and_that_it_crossed_clusters(page: Page, producer: Service) -> None:
    sentence = submit(page, payload="hello", delay="30")

    assert re.fullmatch(r"ok: 200 in \d+ ms, answered by sample-producer in producer-cluster", sentence)
    assert outcome(page) == "ok"
    assert verdict(page) == "Cross-cluster: yes"
    assert page.inner_text("[data-part=way]") == "caller-cluster us-west1-a → producer-cluster us-central1-b"
    assert page.inner_text("[data-part=more]") == "Cross-region: yes, cross-zone: yes"
    here, there = entries(page, "callerMetadata"), entries(page, "producerMetadata")
    assert list(here) == list(there) == METADATA_LABELS
    assert (here["Cluster Name"], here["Region"], here["Zone"]) == ("caller-cluster", "us-west1", "us-west1-a")
    assert (there["Cluster Name"], there["Region"], there["Zone"]) == (
        "producer-cluster",
        "us-central1",
        "us-central1-b",
    )
    call = entries(page, "call")
    assert (call["Outcome"], call["Status Code"], call["Target"]) == ("ok", "200", producer.url)
    assert call["Evidence"] == "x-answered-by: sample-producer"
    assert entries(page, "connection")["Peer Address"] == urlsplit(producer.url).netloc
    assert page.inner_text("[data-part=received]") == "hello"
    assert json.loads(page.text_content("[data-part=raw]") or "")["received"] == "hello"


def test_the_phases_are_a_table_and_a_waterfall_of_the_same_numbers(page: Page) -> None:
    # On one machine the producer may begin before the caller's system call returns: the network's time is then 0.
    for _ in range(20):
        submit(page, delay="500")
        table = phases(page)
        if float(table["Network"]) > 0:
            break
    assert table["TLS"] == "not taken"
    assert 500 <= float(table["Producer's delay"]) < 1500
    parts = [value for name, value in table.items() if name not in ("Wait", "Round trip") and value != "not taken"]
    assert sum(map(float, parts)) == pytest.approx(float(table["Round trip"]), abs=0.01)
    assert page.inner_text("[data-part=finding]").startswith("Longest: Producer's delay, ")
    end = 0.0
    for row in page.locator("[data-part=phases] tr[data-phase]:not([data-phase=waitMillis])").all():
        millis = float(row.locator("td").first.inner_text())
        start, width = (float(row.locator("rect").get_attribute(name) or "") for name in ("x", "width"))
        assert start == pytest.approx(end, abs=0.01), row.inner_text()
        assert width == pytest.approx(max(millis / float(table["Round trip"]) * 100, 0.5), abs=0.01)
        end = start + millis / float(table["Round trip"]) * 100
    assert end == pytest.approx(100, abs=0.01)


def test_headers_are_shown_at_all_four_places_and_what_was_opened_stays_open(page: Page) -> None:
    submit(page)
    page.get_by_text("All headers, as at each place").click()
    assert "user-agent" in header_table(page, "Caller Headers")
    assert header_table(page, "Sent Headers") == header_table(page, "Producer Headers")
    assert header_table(page, "Returned Headers")["x-answered-by"] == "sample-producer"
    submit(page)
    assert page.locator("[data-part=headers] details[open]").count() == 4


def test_the_raw_json_can_be_copied(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    submit(page, payload="to be copied", delay="0")
    page.get_by_text("Raw JSON", exact=True).click()
    page.get_by_role("button", name="Copy JSON").click()
    expect(page.get_by_role("button", name="Copied JSON")).to_be_visible()
    expect(page.locator("#said")).to_have_text("copied JSON")
    assert json.loads(page.evaluate("navigator.clipboard.readText()"))["received"] == "to be copied"


def test_enter_in_a_field_submits_and_leaves_the_focus_there(page: Page) -> None:
    page.fill("#delay", "0")
    page.press("#delay", "Enter")
    expect(page.locator("#sentence")).to_contain_text("ok: 200")
    expect(page.locator("#delay")).to_be_focused()


def test_the_focus_comes_back_to_submit_after_the_call_that_disabled_it(page: Page) -> None:
    page.fill("#delay", "200")
    page.focus("#submit")
    page.keyboard.press("Enter")
    expect(page.locator("#submit")).to_be_disabled()
    expect(page.locator("#sentence")).to_contain_text("ok: 200")
    expect(page.locator("#submit")).to_be_focused()


def test_a_503_looks_like_an_error_and_still_names_the_producers_cluster(page: Page) -> None:
    def look() -> tuple[str, str]:
        color, sign = page.locator("#sentence").evaluate(
            "element => [getComputedStyle(element).color, getComputedStyle(element, '::before').content]"
        )
        return color, sign

    submit(page, delay="0")
    good = look()
    sentence = submit(page, responseCode="503")
    bad = look()

    assert re.fullmatch(r"http_error: 503 in [\d.]+ ms, answered by sample-producer in producer-cluster", sentence)
    assert outcome(page) == "http_error"
    assert good[0] != bad[0]
    assert ("✓" in good[1], "✕" in bad[1]) == (True, True)
    assert entries(page, "producerMetadata")["Cluster Name"] == "producer-cluster"
    assert page.inner_text(".error") == "producer sample-producer answered 503"


def test_a_204_has_no_echo_and_is_no_error(page: Page) -> None:
    assert submit(page, responseCode="204").startswith("ok: 204 in ")
    assert page.get_by_text("nothing: no echo came back").is_visible()
    assert entries(page, "producerMetadata")["Cluster Name"] == "producer-cluster"


def test_a_producer_that_was_stopped_is_refused_and_unknown(browser: Browser) -> None:
    with (
        running(PRODUCER, **CENTRAL) as producer,
        running(CALLER, PRODUCER_URL=producer.url, **WEST) as caller,
        opened(browser, caller.url) as page,
    ):
        submit(page, delay="0")
        producer.stop()
        sentence = submit(page)

        assert re.fullmatch(rf"refused: no answer from {producer.url} in [\d.]+ ms", sentence)
        assert verdict(page) == "refused: Nothing listens there"
        assert page.get_by_text("unknown: nobody said").is_visible()
        assert entries(page, "producerMetadata") == {}
        assert entries(page, "callerMetadata")["Cluster Name"] == "caller-cluster"
        assert "ECONNREFUSED" in page.inner_text(".error")
        assert phases(page)["Wait"] == "not taken"


def test_an_answer_of_the_own_cluster_is_said_to_be_that(browser: Browser, producer: Service) -> None:
    with (
        running(CALLER, PRODUCER_URL=producer.url, **CENTRAL) as caller,
        opened(browser, caller.url) as page,
    ):
        submit(page, delay="0")
        assert verdict(page) == "Cross-cluster: no, answered by the caller's own cluster"


def test_the_browser_holds_back_a_value_out_of_its_limits(page: Page) -> None:
    page.fill("#responseCode", "700")
    page.click("#submit")
    assert page.locator("#responseCode:user-invalid").count() == 1
    assert page.inner_text("#sentence") == "no call yet"


def test_the_callers_limits_are_the_forms_and_the_payloads_counts_bytes(browser: Browser, producer: Service) -> None:
    limits = {"MAX_PAYLOAD_BYTES": "2000", "MAX_DELAY_MILLIS": "1500"}
    with running(CALLER, PRODUCER_URL=producer.url, **limits, **WEST) as caller, opened(browser, caller.url) as page:
        expect(page.locator("#payload-hint")).to_have_text("at most 2,000 bytes of UTF-8")
        expect(page.locator("#delay-hint")).to_have_text("0 to 1,500")
        assert page.get_attribute("#delay", "max") == "1500"
        page.fill("#payload", "ü" * 1_001)
        page.click("#submit")
        message = page.locator("#payload").evaluate("field => field.validationMessage")
        assert message == "2,002 bytes of UTF-8 are more than 2,000"
        assert page.inner_text("#sentence") == "no call yet"
        assert submit(page, payload="ü" * 1_000).startswith("ok: ")


def without_limits(page: Page) -> None:
    """The form sends what it would hold back, so that the caller refuses it."""
    page.locator("form").evaluate("form => { form.noValidate = true }")


def test_a_value_that_the_caller_refuses_is_marked_until_it_is_changed(page: Page) -> None:
    without_limits(page)
    assert submit(page, payload="x" * 70_000).startswith("problem: the caller answered 413")
    detail = "70000 bytes of UTF-8 exceed the maximum of 65536 bytes (MAX_PAYLOAD_BYTES)"
    payload = page.locator("#payload")
    expect(payload).to_have_attribute("aria-invalid", "true")
    expect(payload).to_have_accessible_description(re.compile(re.escape(detail)))
    expect(page.get_by_role("alert")).to_have_text(f"payload: {detail}")
    expect(page.locator("#hop")).to_be_hidden()

    page.fill("#payload", "short")
    expect(payload).not_to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_every_refused_field_is_marked(page: Page) -> None:
    without_limits(page)
    submit(page, delay="-1", responseCode="700")
    marked = page.locator("[aria-invalid=true]").evaluate_all("fields => fields.map(field => field.name)")
    assert marked == ["delay", "responseCode"]


def test_a_call_can_be_cancelled(page: Page) -> None:
    page.fill("#delay", "60000")
    page.click("#submit")
    expect(page.locator("#submit")).to_be_disabled()
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#sentence")).to_have_text("cancelled: it was given up")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(page.locator("#submit")).to_be_focused()


def test_a_caller_that_is_gone_is_said_to_be_silent(browser: Browser, producer: Service) -> None:
    with running(CALLER, PRODUCER_URL=producer.url, **WEST) as caller, opened(browser, caller.url) as page:
        caller.stop()
        assert submit(page).startswith("the caller did not answer: ")
        assert outcome(page) == "silent"


def test_a_page_of_a_proxy_is_not_taken_for_the_callers_reply(browser: Browser, caller: Service) -> None:
    replies = {"/caller/messages": (502, "text/html", "<h1>Bad gateway</h1>")}
    with in_front_of(caller.url, replies) as url, opened(browser, url) as page:
        assert submit(page) == "502: this reply did not come from the caller (text/html, server ingress)"
        assert outcome(page) == "foreign"


def test_a_choice_of_targets_is_offered_and_sent(browser: Browser, producer: Service) -> None:
    other = f"http://127.0.0.1:{free_port()}"
    with (
        running(CALLER, PRODUCER_URL=producer.url, COMPARE_URLS=other, **WEST) as caller,
        opened(browser, caller.url) as page,
    ):
        assert submit(page, delay="0").startswith("ok: ")
        page.get_by_label("Target", exact=True).select_option(other)
        assert submit(page).startswith(f"refused: no answer from {other} ")


def test_connections_are_reused_unless_a_fresh_one_is_asked_for(page: Page) -> None:
    states = []
    for choice in ("reuse", "reuse", "fresh", "reuse"):
        page.get_by_role("combobox", name="Connection").select_option(choice)
        submit(page, delay="0")
        connection = entries(page, "connection")
        states.append((connection["Asked For"], connection["State"].split(",")[0]))
    assert states[1:] == [("reuse", "reused"), ("fresh", "new"), ("reuse", "reused")]


def test_text_of_the_echo_is_never_taken_for_html(page: Page) -> None:
    payload = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    submit(page, payload=payload, delay="0")
    assert page.inner_text("[data-part=received]") == payload
    assert page.locator("#result img, #result script").count() == 0
    assert page.title() == "Service caller"


@pytest.mark.parametrize(("scheme", "width"), FORMATS)
def test_the_page_fits_and_is_accessible(browser: Browser, caller: Service, scheme: str, width: int) -> None:
    # axe adds a style of its own while it looks, which the page's policy forbids.
    with opened(
        browser, caller.url, width=width, scheme=scheme, headers={"x-long": "h" * 2_000}, bypass_csp=True
    ) as page:
        assert_fits_and_is_accessible(page)
        submit(page, payload="x" * 60_000, responseCode="503")
        unfold(page)
        assert_fits_and_is_accessible(page)
        without_limits(page)
        submit(page, payload="x" * 70_000)
        assert_fits_and_is_accessible(page)
