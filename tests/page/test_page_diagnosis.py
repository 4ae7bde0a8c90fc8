"""The page of a failed call: what it probably means, what to do next, what the name resolves to."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from lab.processes import CALLER, CENTRAL, PRODUCER, WEST, Service, free_port, running
from tests.support.browser import (
    FORMATS,
    INSECURE,
    assert_fits_and_is_accessible,
    entries,
    in_front_of,
    marks,
    opened,
    submit,
    unfold,
)

EXPORTED = "sample-producer.istio-apps.svc.clusterset.local"
INNER = "sample-producer.istio-apps.svc.cluster.local"
MARKUP = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def caller() -> Iterator[Service]:
    """Its producer is there; a second one is not, and a third has a name that no resolver outside a cluster knows."""
    with running(PRODUCER, **CENTRAL) as producer:
        others = f"http://127.0.0.1:{free_port()},{EXPORTED}"
        with running(CALLER, PRODUCER_URL=producer.url, COMPARE_URLS=others, **WEST) as service:
            yield service


@pytest.fixture
def page(browser: Browser, caller: Service) -> Iterator[Page]:
    with opened(browser, caller.url) as page:
        page.fill("#delay", "0")
        yield page


def submit_to(page: Page, index: int, **fields: str) -> str:
    """Call the target at this place of the list; the sentence."""
    page.get_by_label("Target", exact=True).select_option(index=index)
    return submit(page, **fields)


def shown(page: Page) -> dict[str, Any]:
    """The hop that the page shows."""
    hop: dict[str, Any] = json.loads(page.text_content("[data-part=raw]") or "")
    return hop


def hop_to(caller: Service, index: int) -> dict[str, Any]:
    targets = httpx.get(f"{caller.url}/caller/targets", trust_env=False).json()["targets"]
    message = {"payload": "x", "target": targets[index]["name"]}
    hop: dict[str, Any] = httpx.post(f"{caller.url}/caller/messages", json=message, trust_env=False).json()
    return hop


def assert_card_is(page: Page, diagnosis: dict[str, Any]) -> None:
    card = page.locator("[data-part=diagnosis]")
    assert card.locator("h3").inner_text() == f"{diagnosis['severity']}: {diagnosis['title']}"
    assert card.locator("[data-part=summary]").inner_text() == diagnosis["summary"]
    causes = [
        {name: cause.locator(f"[data-part={name}]").inner_text() for name in ("cause", "command", "fix", "source")}
        for cause in card.locator("ol > li").all()
    ]
    assert causes == diagnosis["causes"]


def test_a_producer_that_is_not_there_has_a_card_with_the_likeliest_cause_and_its_command(page: Page) -> None:
    assert submit_to(page, 1).startswith("refused: ")

    assert_card_is(page, shown(page)["diagnosis"])
    card = page.locator("[data-part=diagnosis]")
    first = card.locator("ol > li").first
    assert "not running there" in first.locator("[data-part=cause]").inner_text()
    assert first.locator("code").inner_text().startswith("kubectl --context producer-cluster ")
    assert marks(card) == [("error", "✕")]
    assert "ECONNREFUSED" in card.locator(".error").inner_text()
    assert page.locator("#hop .card:visible").first.get_attribute("data-part") == "diagnosis"


def test_an_exported_name_that_does_not_exist_has_a_card_with_the_likeliest_cause_and_its_command(page: Page) -> None:
    sentence = submit_to(page, 2)
    assert_card_is(page, shown(page)["diagnosis"])
    if sentence.startswith("dns_unavailable"):
        pytest.skip("there is no DNS server")
    first = page.locator("[data-part=diagnosis] ol > li").first
    assert "There is no ServiceExport" in first.locator("[data-part=cause]").inner_text()
    assert first.locator("code").inner_text() == (
        "kubectl --context producer-cluster -n istio-apps get service,serviceexport sample-producer"
    )


def test_a_source_on_the_web_is_a_link_that_tells_it_nothing_of_this_page_and_any_other_is_text(page: Page) -> None:
    submit_to(page, 1)
    links = page.locator("[data-part=source] a")
    assert links.evaluate_all("links => links.map(link => [link.textContent, link.href, link.rel])") == [
        [cause["source"], cause["source"], "noreferrer"] for cause in shown(page)["diagnosis"]["causes"]
    ]
    submit_to(page, 0, responseCode="503")
    assert page.inner_text("[data-part=source]") == "README.md"
    assert links.count() == 0


def test_copy_copies_exactly_the_command_and_says_so(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    submit_to(page, 1)
    page.get_by_role("button", name="Copy command 2").click()
    expect(page.get_by_role("button", name="Copied command 2")).to_be_visible()
    expect(page.get_by_role("status").and_(page.locator("#said"))).to_have_text("copied command 2")
    assert page.evaluate("navigator.clipboard.readText()") == shown(page)["diagnosis"]["causes"][1]["command"]
    expect(page.get_by_role("button", name="Copy command 2")).to_be_visible()


def test_behind_an_ingress_without_tls_copying_works_too(browser: Browser, caller: Service) -> None:
    port = caller.url.rpartition(":")[2]
    with opened(browser, f"http://{INSECURE}:{port}") as page:
        assert page.evaluate("[isSecureContext, navigator.clipboard]") == [False, None]
        submit_to(page, 1)
        button = page.get_by_role("button", name="Copy command 1")
        button.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_have_text("copied command 1")
        expect(page.locator(":focus")).to_have_accessible_name("Copied command 1")
        page.fill("#payload", "")
        page.focus("#payload")
        page.keyboard.press("Control+v")
        assert page.input_value("#payload") == shown(page)["diagnosis"]["causes"][0]["command"]


def test_a_call_that_is_plainly_ok_has_no_card_even_after_one_that_failed(page: Page) -> None:
    submit_to(page, 1)
    expect(page.locator("[data-part=diagnosis]")).to_be_visible()
    expect(page.locator("[data-part=dns]")).to_be_visible()
    assert submit_to(page, 0).startswith("ok: ")
    expect(page.locator("[data-part=diagnosis]")).to_be_hidden()
    expect(page.locator("[data-part=dns]")).to_be_hidden()


def test_a_503_that_was_asked_for_is_a_warning(page: Page) -> None:
    card = page.locator("[data-part=diagnosis]")
    submit_to(page, 1)
    error = card.evaluate("card => getComputedStyle(card).borderColor")
    submit_to(page, 0, responseCode="503")
    warning = card.evaluate("card => getComputedStyle(card).borderColor")

    assert_card_is(page, shown(page)["diagnosis"])
    assert marks(card) == [("warning", "▲")]
    assert warning != error
    assert entries(page, "call")["Status Code"] == "503"


def test_without_a_reply_the_card_of_the_name_shows_what_the_resolver_says_and_what_a_lookup_costs(page: Page) -> None:
    submit_to(page, 2)
    dns = shown(page)["dns"]
    facts = entries(page, "facts")
    assert facts["Name"] == EXPORTED
    assert facts["getaddrinfo"].startswith(f"{dns['system']['error']} in ")
    assert re.fullmatch(r"\d+ quer(y|ies), \d+ for nothing", facts["A Lookup Costs"])
    assert facts["ndots"] == str(dns["resolvConf"]["ndots"])
    tables = page.locator("[data-part=names] table")
    assert [table.locator("caption b").inner_text() for table in tables.all()] == [EXPORTED, INNER]
    rcodes = tables.first.locator("[data-part=rcode]").all_inner_texts()
    assert rcodes == [answer["rcode"] for answer in dns["absolute"]]


def answer(name: str, kind: str, rcode: str, *addresses: str) -> dict[str, Any]:
    ttl = 30 if addresses else None
    nameserver = "10.4.0.10" if rcode != "TIMEOUT" else None
    return {
        "name": name,
        "type": kind,
        "rcode": rcode,
        "addresses": addresses,
        "ttl": ttl,
        "millis": 1.25,
        "nameserver": nameserver,
    }


def test_the_search_list_the_twin_and_the_hosts_file_are_shown(browser: Browser, caller: Service) -> None:
    search = ["istio-apps.svc.cluster.local", "svc.cluster.local"]
    absolute = [answer(EXPORTED, "A", "NXDOMAIN"), answer(EXPORTED, "AAAA", "TIMEOUT")]
    candidates = [{"name": f"{EXPORTED}.{domain}", "answers": absolute[:1]} for domain in search]
    hop = hop_to(caller, 1) | {
        "dns": {
            "host": EXPORTED,
            "system": {"addresses": ["10.0.0.1", "fd00::1"], "error": None, "millis": 2.04},
            "absolute": absolute,
            "candidates": [*candidates, {"name": EXPORTED, "answers": absolute}],
            "hostsFile": True,
            "queries": 6,
            "wastedQueries": 4,
            "counterpart": [answer(INNER, "A", "NOERROR", "10.9.0.7"), answer(INNER, "AAAA", "NOERROR")],
            "resolvConf": {"nameservers": ["10.4.0.10", "10.4.0.11"], "search": search, "ndots": 5, "error": "cut off"},
        }
    }
    replies = {"/caller/messages": (200, "application/json", json.dumps(hop))}
    with in_front_of(caller.url, replies) as url, opened(browser, url) as page:
        submit(page)
        assert entries(page, "facts") == {
            "Name": EXPORTED,
            "getaddrinfo": "10.0.0.1, fd00::1 in 2 ms",
            "A Lookup Costs": "6 queries, 4 for nothing",
            "/etc/hosts": "has the name, so a lookup asks nobody",
            "/etc/resolv.conf": "cut off",
            "Name Servers": "10.4.0.10, 10.4.0.11",
            "Search List": " ".join(search),
            "ndots": "5",
        }
        assert marks(page.locator("[data-part=names]")) == [
            ("NXDOMAIN", "○"),
            ("TIMEOUT", "○"),
            ("NOERROR", "✓"),
            ("NOERROR", "○"),
        ]
        assert marks(page.locator("[data-part=candidates]"))[-2:] == [("A NXDOMAIN", "✕"), ("AAAA TIMEOUT", "✕")]
        rows = page.locator("[data-part=answers] tr").all_inner_texts()
        assert [row.split() for row in rows] == [
            ["A", "NXDOMAIN", "none", "1.250"],
            ["AAAA", "TIMEOUT", "none", "1.250"],
            ["A", "NOERROR", "10.9.0.7", "30", "1.250"],
            ["AAAA", "NOERROR", "none", "1.250"],
        ]
        page.get_by_text("What a lookup tries, in order (3)").click()
        tried = page.locator("[data-part=candidates] > li").all_inner_texts()
        assert [" ".join(text.split()) for text in tried] == [
            f"{EXPORTED}.{search[0]} A NXDOMAIN",
            f"{EXPORTED}.{search[1]} A NXDOMAIN",
            f"{EXPORTED} A NXDOMAIN AAAA TIMEOUT",
        ]


def test_a_bad_reply_shows_the_status_that_came_in_and_the_clock_skew_is_signed(
    browser: Browser, caller: Service
) -> None:
    hop = hop_to(caller, 0) | {
        "outcome": "bad_reply",
        "statusCode": 502,
        "replyStatus": 200,
        "answeredBy": {"who": "proxy", "name": "nginx", "evidence": "server: nginx"},
        "clockSkew": {"millis": 0.312, "errorMillis": 0.8},
    }
    replies = {"/caller/messages": (200, "application/json", json.dumps(hop))}
    with in_front_of(caller.url, replies) as url, opened(browser, url) as page:
        sentence = submit(page)
        assert re.fullmatch(
            r"bad_reply: 200 without a usable reply in [\d.]+ ms, answered by nginx, not by the producer", sentence
        )
        call = entries(page, "call")
        assert call["Status Code"] == "200 came in; 502 is what a gateway would say"
        assert call["Clock Skew"] == "+0.3 ms, give or take 0.8"


def test_text_of_the_other_side_is_never_taken_for_html(browser: Browser, caller: Service) -> None:
    hop = hop_to(caller, 1)
    hop |= {
        "error": MARKUP,
        "diagnosis": {
            "severity": "error",
            "title": MARKUP,
            "summary": MARKUP,
            "causes": [
                {"cause": MARKUP, "command": MARKUP, "fix": MARKUP, "source": f"https://x/{MARKUP}"},
                {"cause": "", "command": "", "fix": "", "source": "javascript:document.title='owned'"},
            ],
        },
        "dns": hop["dns"] | {"host": MARKUP, "system": {"addresses": [], "error": MARKUP, "millis": 1}},
        "headerDiff": {
            side: [{"name": MARKUP, "group": "mesh", "change": "added", "sent": None, "received": [MARKUP]}]
            for side in ("request", "reply")
        },
    }
    replies = {"/caller/messages": (200, "application/json", json.dumps(hop))}
    with in_front_of(caller.url, replies) as url, opened(browser, url) as page:
        submit(page)
        unfold(page)
        for part in ("title", "summary", "error", "cause", "command", "fix"):
            assert page.locator(f"[data-part=diagnosis] [data-part={part}]").first.inner_text() == MARKUP
        assert entries(page, "facts")["Name"] == MARKUP
        assert page.locator("[data-part=headerDiff] [data-part=after]").all_inner_texts() == [MARKUP] * 2
        assert page.locator("[data-part=source]").last.inner_text() == "javascript:document.title='owned'"
        assert page.locator("[data-part=source] a").count() == 1
        assert page.locator("#result img").count() == 0
        assert page.title() == "Service caller"


@pytest.mark.parametrize(("scheme", "width"), FORMATS)
def test_a_failure_fits_and_is_accessible(browser: Browser, caller: Service, scheme: str, width: int) -> None:
    with opened(browser, caller.url, width=width, scheme=scheme, bypass_csp=True) as page:
        for index in (1, 2):
            submit_to(page, index)
            unfold(page)
            assert_fits_and_is_accessible(page)
