"""What can be taken away from the page, and where the page may be: links, curl, reports, JSON, prefixes, its weight."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from lab.processes import CALLER, CENTRAL, PRODUCER, WEST, Service, free_port, running
from tests.support.browser import INSECURE, header_table, opened, run, show, submit, verdict

BUTTONS = ["Copy link", "Copy as curl", "Copy report", "Download JSON"]
MOST_BYTES = 100_000


@pytest.fixture(scope="module")
def caller() -> Iterator[Service]:
    """Its first target answers, its second refuses."""
    with (
        running(PRODUCER, POD_NAME="pod-1", **CENTRAL) as producer,
        running(CALLER, PRODUCER_URL=producer.url, COMPARE_URLS=f"http://127.0.0.1:{free_port()}", **WEST) as service,
    ):
        yield service


@pytest.fixture(params=["secure", "insecure"])
def page(browser: Browser, caller: Service, request: pytest.FixtureRequest) -> Iterator[Page]:
    """From loopback, where there is a clipboard, and from a name without TLS, where there is none."""
    url = caller.url if request.param == "secure" else f"http://{INSECURE}:{caller.url.rpartition(':')[2]}"
    with opened(browser, url) as page:
        if request.param == "secure":
            page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        expect(page.locator("#target option")).to_have_count(2)
        yield page


def copied(page: Page, name: str) -> str:
    """What the button puts into the clipboard, pasted as a person would."""
    button = page.get_by_role("button", name=name)
    button.click()
    expect(page.locator("#said")).to_have_text(re.compile("^copied "))
    expect(page.get_by_role("button", name=name.replace("Copy", "Copied"))).to_be_visible()
    page.evaluate("document.body.append(Object.assign(document.createElement('textarea'), { id: 'paste' }))")
    page.focus("#paste")
    page.keyboard.press("Control+v")
    text = page.input_value("#paste")
    page.evaluate("document.querySelector('#paste').remove()")
    return text


def shell(command: str) -> str:
    """What a shell makes of it; a name that only the browser knows is passed to curl, too."""
    assert command.startswith("curl ")
    host = re.search(rf"http://{INSECURE}:\d+", command)
    if host:
        command = f"curl --resolve {host[0].removeprefix('http://')}:127.0.0.1 {command.removeprefix('curl ')}"
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=30, check=True, env={"PATH": "/usr/bin:/bin"}
    ).stdout


def test_a_link_fills_the_form_of_another_browser_and_sends_nothing(page: Page, browser: Browser) -> None:
    page.get_by_label("Target", exact=True).select_option(index=1)
    page.get_by_text("Where the fault applies, and the time-out").click()
    fields = {"payload": "a&b=c #\n\u00e4", "delay": "7", "faultRate": "0.5", "zone": "z", "timeoutSeconds": "3"}
    submit(page, **fields)
    link = copied(page, "Copy link")
    assert link == page.url
    sent: list[str] = []
    with opened(browser, "about:blank") as other:
        other.on("request", lambda request: sent.append(request.method))
        other.goto(link)
        expect(other.locator("#target-hint")).to_contain_text("resolves to")
        assert {name: other.input_value(f"#{name}") for name in fields} == fields
        assert other.input_value("#target") == page.input_value("#target") != ""
        expect(other.locator("#zone")).to_be_visible()
        assert other.inner_text("#sentence") == "no call yet"
        assert set(sent) == {"GET"}


def test_a_link_to_a_run_opens_the_run(page: Page, browser: Browser) -> None:
    show(page, "Run")
    page.check("#allTargets")
    page.get_by_label("Connections").select_option("reuse")
    run(page, rate="10", durationSeconds="0.5", delay="0")
    with opened(browser, copied(page, "Copy link")) as other:
        expect(other.locator("#allTargets")).to_be_checked()
        assert [other.input_value(f"#{name}") for name in ("rate", "durationSeconds", "delay")] == ["10", "0.5", "0"]
        assert other.get_by_label("Connections").input_value() == "reuse"
        assert other.inner_text("#run-sentence") == "no run yet"


def test_a_link_that_says_what_is_not_offered_is_told_where_it_says_so(browser: Browser, caller: Service) -> None:
    link = f"{caller.url}/#target=http%3A%2F%2F169.254.169.254&connection=pinned&delay=soon&payload=%3Cb%3E"
    with opened(browser, link) as page:
        expect(page.locator("#target-error")).to_have_text(
            "the link says http://169.254.169.254, which is not offered here"
        )
        expect(page.locator("#delay-error")).to_have_text("the link says soon, which is not offered here")
        assert page.input_value("#payload") == "<b>"
        page.goto(f"{caller.url}/#delay=5")
        expect(page.locator("#delay")).to_have_value("5")
        expect(page.locator("#payload")).to_have_value("dummy payload")


def test_what_was_typed_before_the_caller_answered_stays(browser: Browser, caller: Service) -> None:
    with opened(browser, "about:blank") as page:
        held: list[Route] = []
        page.route("**/caller/targets**", lambda route: route.continue_() if held else held.append(route))
        page.goto(caller.url)
        page.fill("#payload", "typed immediately")
        show(page, "Run")
        expect(page.locator("[data-part=caller]")).to_have_text("asking…")
        held[0].continue_()
        expect(page.locator("#rate-hint")).to_have_text("at most 200")
        assert page.input_value("#payload") == "typed immediately"
        assert page.get_attribute("[data-shows=run]", "aria-current") == "true"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_a_call_copied_as_curl_is_the_same_call_in_a_shell(page: Page) -> None:
    payload = 'it\'s $HOME `id` "x" \\ !! ; echo\n\u00e4 \u202e'
    submit(page, payload=payload, delay="0", responseCode="418")
    hop = json.loads(shell(copied(page, "Copy as curl")))
    assert (hop["received"], hop["statusCode"]) == (payload, 418)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_a_run_and_checks_copied_as_curl_are_the_same_in_a_shell(page: Page) -> None:
    run(page, rate="10", durationSeconds="0.5", delay="0")
    events = shell(copied(page, "Copy as curl"))
    assert '"ended":"complete"' in events
    assert '"sent":5,' in events
    show(page, "Checks")
    page.click("#run-checks")
    expect(page.locator("#run-checks")).to_be_enabled()
    report = json.loads(shell(copied(page, "Copy as curl")))
    assert {check["target"] for check in report["checks"]} >= set(page.locator("#target option").all_text_contents())
    assert copied(page, "Copy link").endswith("#view=checks")


def test_a_report_of_a_failed_call_has_all_that_a_colleague_needs_and_no_secret(
    browser: Browser, caller: Service
) -> None:
    with opened(browser, caller.url, headers={"authorization": "Bearer hidden-token"}) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        expect(page.locator("#target option")).to_have_count(2)
        page.get_by_label("Target", exact=True).select_option(index=1)
        sentence = submit(page)
        hop = json.loads(page.text_content("[data-part=raw]") or "")
        report = copied(page, "Copy report")
        assert report.startswith(f"# {sentence}\n")
        for text in (
            hop["id"],
            hop["target"],
            "caller-cluster",
            "ECONNREFUSED",
            "| Round trip |",
            "## Nothing listens",
        ):
            assert text.replace("_", "\\_") in report or text in report, text
        assert hop["diagnosis"]["causes"][0]["command"] in report
        page.get_by_label("Target", exact=True).select_option(index=0)
        submit(page)
        page.get_by_text("All headers, as at each place").click()
        assert header_table(page, "Caller Headers")["authorization"] == "***"
        assert "hidden-token" not in report + copied(page, "Copy report") + page.content()


def test_a_report_is_markdown_that_texts_of_the_other_side_cannot_break(page: Page) -> None:
    submit(page, payload="x | y", delay="0", responseCode="503")
    report = copied(page, "Copy report")
    assert report.splitlines()[0].startswith("# http\\_error: 503 in ")
    tables = [line for line in report.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables[:12]} == {3}
    run(page, rate="10", durationSeconds="0.5")
    report = copied(page, "Copy report")
    assert "# complete: 5 calls" in report
    assert "| http\\_error | 5 |" in report


def test_the_json_is_downloaded_as_it_came(page: Page) -> None:
    submit(page, payload="\u00e4 to keep", delay="0")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download JSON").click()
    assert re.fullmatch(r"caller-messages-[\d-]+T\d+\.json", download.value.suggested_filename)
    assert json.loads(Path(download.value.path()).read_text()) == json.loads(page.text_content("[data-part=raw]") or "")


def test_nothing_is_offered_before_there_is_something_to_take(browser: Browser, caller: Service) -> None:
    with opened(browser, caller.url) as page:
        for view in ("Call", "Run", "Checks", "History"):
            show(page, view)
            for name in BUTTONS:
                expect(page.get_by_role("button", name=name)).to_have_count(0)


def use_everything(page: Page) -> None:
    assert submit(page, delay="0").startswith("ok: ")
    assert verdict(page) == "Cross-cluster: yes"
    assert run(page, rate="10", durationSeconds="0.5").startswith("complete: 5 calls")
    show(page, "Checks")
    page.click("#run-checks")
    expect(page.locator("#preflight-sentence")).to_contain_text("checks, in ")


def test_behind_an_ingress_that_leaves_its_prefix_in_the_path_all_of_it_works(browser: Browser) -> None:
    with (
        running(PRODUCER, **CENTRAL) as producer,
        running(CALLER, PRODUCER_URL=producer.url, ROOT_PATH="/team/caller-ui", **WEST) as caller,
        opened(browser, f"{caller.url}/team/caller-ui") as page,
    ):
        assert page.url == f"{caller.url}/team/caller-ui/"
        use_everything(page)
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        assert f"'{caller.url}/team/caller-ui/caller/checks'" in copied(page, "Copy as curl")
        page.get_by_role("link", name="API", exact=True).click()
        expect(page.locator("#swagger-ui .opblock").first).to_be_visible()
        assert page.url == f"{caller.url}/team/caller-ui/docs"


def test_behind_a_proxy_that_strips_a_prefix_all_of_it_works(browser: Browser, caller: Service) -> None:
    def strip(route: Route) -> None:
        url = route.request.url.replace("/some/prefix/", "/")
        reply = httpx.request(
            route.request.method,
            url,
            content=route.request.post_data_buffer,
            headers={"content-type": route.request.headers.get("content-type", "")},
            trust_env=False,
            timeout=60,
        )
        route.fulfill(
            status=reply.status_code, headers=dict(reply.headers) | {"content-encoding": ""}, body=reply.content
        )

    with opened(browser, "about:blank") as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.route("**/some/prefix/**", strip)
        page.goto(f"{caller.url}/some/prefix/")
        use_everything(page)
        assert [url for url in asked if not url.startswith(f"{caller.url}/some/prefix/")] == []


def test_the_page_is_light_and_drawn_at_once(browser: Browser, caller: Service) -> None:
    """On loopback and a busy machine; `transferSize` is with the headers of each reply."""
    painted = []
    for _ in range(3):
        with opened(browser, caller.url) as page:
            expect(page.locator("#target-hint")).to_contain_text("resolves to")
            files, size, paint = page.evaluate(
                """() => {
                    const files = performance.getEntriesByType('resource').filter(({ name }) => !/caller/.test(name));
                    const [page] = performance.getEntriesByType('navigation');
                    const size = [page, ...files].reduce((total, { transferSize }) => total + transferSize, 0);
                    return [files.length, size, performance.getEntriesByName('first-contentful-paint')[0].startTime];
                }"""
            )
            painted.append(paint)
            assert files > 20
            assert size < MOST_BYTES
    assert min(painted) < 1500
