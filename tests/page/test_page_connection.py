"""What the page and its report show of the connection of a call."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from lab.processes import CALLER, CENTRAL, PRODUCER, WEST, Service, free_port, running
from tests.support.browser import FORMATS, assert_fits_and_is_accessible, entries, in_front_of, opened, phases, submit

DEAD = [{"address": f"10.4.1.{number}:8080", "error": "no answer", "millis": 251.4} for number in range(10)]
CERTIFICATE = {
    "names": ["producer", "producer.istio-apps"],
    "issuer": "commonName=producer-cluster CA",
    "notBefore": "2026-11-01T00:00:00Z",
    "notAfter": "2027-01-01T12:00:00Z",
}
CALLED_AT = 1_795_867_200
"""2026-11-28T12:00:00Z"""


@pytest.fixture(scope="module")
def caller() -> Iterator[Service]:
    """Its producer is there; a second one is not."""
    with (
        running(PRODUCER, **CENTRAL) as producer,
        running(CALLER, PRODUCER_URL=producer.url, COMPARE_URLS=f"http://127.0.0.1:{free_port()}", **WEST) as service,
    ):
        yield service


def hop_to(caller: Service, index: int, **connection: Any) -> dict[str, Any]:
    """The hop to this target, with these facts about its connection instead of the real ones."""
    targets = httpx.get(f"{caller.url}/caller/targets", trust_env=False).json()["targets"]
    message = {"payload": "x", "target": targets[index]["name"]}
    hop: dict[str, Any] = httpx.post(f"{caller.url}/caller/messages", json=message, trust_env=False).json()
    unknown: dict[str, Any] = {name: [] if name == "attempts" else None for name in hop["connection"]}
    hop["connection"] = unknown | {"mode": "fresh"} | connection
    return hop | {"startedAt": CALLED_AT}


def shown(browser: Browser, caller: Service, hop: dict[str, Any]) -> tuple[dict[str, str], str, str]:
    """The entries about the connection, the sentence about the event loop, the report."""
    replies = {"/caller/messages": (200, "application/json", json.dumps(hop))}
    with in_front_of(caller.url, replies) as url, opened(browser, url) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        submit(page)
        page.get_by_role("button", name="Copy report").click()
        report: str = page.evaluate("navigator.clipboard.readText()")
        return entries(page, "connection"), page.inner_text("[data-part=eventLoop]"), report


def test_only_what_is_known_is_shown(browser: Browser, caller: Service) -> None:
    shown_entries, sentence, report = shown(browser, caller, hop_to(caller, 1, attempts=DEAD[:1]))
    assert shown_entries == {
        "State": "none",
        "Asked For": "fresh",
        "Attempts": "10.4.1.0:8080 no answer (251 ms)",
    }
    assert sentence == ""
    assert "| Attempts | 10.4.1.0:8080 no answer (251 ms) |" in report
    assert "Certificate" not in report


def test_of_ten_failed_attempts_five_are_shown(browser: Browser, caller: Service) -> None:
    shown_entries, _, report = shown(browser, caller, hop_to(caller, 1, attempts=DEAD))
    assert shown_entries["Attempts"].count("no answer") == 5
    assert shown_entries["Attempts"].endswith(" · 10.4.1.4:8080 no answer (251 ms) and 5 more")
    assert shown_entries["Attempts"] in report


def test_a_connection_after_a_failed_attempt_has_the_evidence_of_the_kernel(browser: Browser, caller: Service) -> None:
    hop = hop_to(
        caller,
        1,
        attempts=[DEAD[0], {"address": "10.4.1.1:8080", "error": None, "millis": 0.412}],
        localAddress="10.4.1.9:51234",
        peerAddress="10.4.1.1:8080",
        bytesSent=60_741,
        bytesUnacknowledged=60_482,
        bytesReceived=0,
        kernelRttMillis=12.41,
        retransmits=3,
        closedBeforeReply=True,
    )
    assert shown(browser, caller, hop)[0] == {
        "State": "new",
        "Asked For": "fresh",
        "Local Address": "10.4.1.9:51234",
        "Peer Address": "10.4.1.1:8080",
        "Attempts": "10.4.1.0:8080 no answer (251 ms) · 10.4.1.1:8080 connected (0.412 ms)",
        "Sent": "60,482 of 60,741 bytes were not acknowledged",
        "Received": "0 bytes",
        "RTT (Kernel)": "12.4 ms",
        "Retransmits": "3",
        "Closed": "before a reply",
    }


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            {"tlsVersion": "TLSv1.3", "tlsAlert": "certificate_required"},
            {"TLS Version": "TLSv1.3", "TLS Alert": "certificate_required, from the other side"},
        ),
        ({"tlsVerifyError": "self-signed certificate"}, {"Refused": "self-signed certificate"}),
    ],
)
def test_tls_has_its_certificate_and_what_either_side_refused(
    browser: Browser, caller: Service, facts: dict[str, str], expected: dict[str, str]
) -> None:
    hop = hop_to(caller, 1, peerAddress="10.4.1.1:8443", peerCertificate=CERTIFICATE, **facts)
    assert shown(browser, caller, hop)[0] == {
        "State": "new",
        "Asked For": "fresh",
        "Peer Address": "10.4.1.1:8443",
        **expected,
        "Certificate": "producer, producer.istio-apps",
        "Issuer": "commonName=producer-cluster CA",
        "Validity": "until 2027-01-01 12:00 UTC (34 days left)",
    }


@pytest.mark.parametrize(("scheme", "width"), FORMATS)
def test_the_delay_of_the_event_loop_is_a_sentence_and_a_part_of_the_wait(
    browser: Browser, caller: Service, scheme: str, width: int
) -> None:
    hop = hop_to(caller, 0, attempts=DEAD, reused=True, idleMillis=1302, peerAddress="10.4.1.1:8080")
    hop["phases"] |= {
        "waitMillis": 50,
        "networkMillis": 20,
        "producerDelayMillis": 15,
        "producerWorkMillis": 5,
        "eventLoopDelayMillis": 10.5,
        "delayedPhases": ["send", "wait"],
    }
    replies = {"/caller/messages": (200, "application/json", json.dumps(hop))}
    with in_front_of(caller.url, replies) as url, opened(browser, url, scheme=scheme, width=width) as page:
        submit(page)
        sentence = page.inner_text("[data-part=eventLoop]")
        assert sentence == "The caller's own event loop was late by 10.5 ms (send, wait): not the network."
        assert phases(page)["Event loop"] == "10.000"
        assert entries(page, "connection")["State"] == "reused, idle 1.3 s"
        assert_fits_and_is_accessible(page)
