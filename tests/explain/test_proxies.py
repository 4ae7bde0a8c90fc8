"""Who answered a call through a proxy: a real nginx, and the replies of meshes and load balancers."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from caller.explain.explain import Explained, Explainer
from caller.hop.outcome import Outcome
from common.messages import Message
from lab.processes import free_port
from tests.support.servers import calling, http_reply, listening, producing, replying

MESSAGE = Message(payload="test")
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
"""Debian installs it in a directory that is only on root's PATH."""

CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {server}
    }}
}}
"""


async def explained(url: str, message: Message = MESSAGE, **settings: Any) -> Explained:
    async with calling(url, **settings) as client:
        target = client.settings.producer_url
        return await Explainer(client).explain(await client.call(message, target), message, target)


def causes_of(hop: Explained) -> list[str]:
    assert hop.diagnosis is not None
    return [cause.cause for cause in hop.diagnosis.causes]


@asynccontextmanager
async def nginx(folder: Path, server: str) -> AsyncIterator[str]:
    """An nginx with these lines in its server block; its host:port."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, server=server))
    process = await asyncio.create_subprocess_exec(
        NGINX, "-p", str(folder), "-c", str(config), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        while not accepts(port):
            assert process.returncode is None, (folder / "error.log").read_text()
            await asyncio.sleep(0.01)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


def before(url: str, settings: str = "") -> str:
    """A location that forwards everything."""
    return f"location / {{ proxy_pass {url}; {settings} }}"


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# A real nginx


def assert_nginx_answered(hop: Explained, status: int) -> None:
    assert (hop.outcome, hop.status_code, hop.reply_status) == (Outcome.PROXY_ERROR, status, status)
    assert (hop.answered_by.who, hop.answered_by.name) == ("proxy", "nginx")
    assert hop.answered_by.evidence.startswith("server: nginx/")
    assert hop.producer_metadata is None
    assert hop.crossing.cluster is None
    assert "A web server or an ingress controller" in causes_of(hop)[0]
    assert hop.diagnosis is not None
    assert hop.diagnosis.summary.startswith(f"nginx answered {status} ")
    assert "(server: nginx/" in hop.diagnosis.summary


async def test_an_error_of_nginx_itself_is_not_the_producers(tmp_path: Path) -> None:
    async with nginx(tmp_path, "return 503;") as address:
        assert_nginx_answered(await explained(address), 503)


async def test_an_error_of_the_producer_stays_the_producers_behind_nginx(tmp_path: Path) -> None:
    async with producing() as url, nginx(tmp_path, before(url)) as address:
        hop = await explained(address, Message(payload="test", response_code=503))
    assert (hop.outcome, hop.status_code) == (Outcome.HTTP_ERROR, 503)
    assert (hop.answered_by.who, hop.answered_by.evidence) == ("producer", "x-answered-by: sample-producer")
    assert hop.producer_metadata is not None
    assert hop.producer_metadata.cluster_name == "producer-cluster"
    assert hop.returned_headers["server"][0].startswith("nginx")
    assert "responseCode 503" in causes_of(hop)[0]


async def test_an_error_page_that_replaces_the_producers_error_is_nginxs(tmp_path: Path) -> None:
    """`proxy_intercept_errors`, as in ingress controllers with custom error pages: it drops the producer's reply."""
    page = "error_page 503 @page; location @page { return 503; }"
    async with producing() as url, nginx(tmp_path, f"{before(url, 'proxy_intercept_errors on;')} {page}") as address:
        assert_nginx_answered(await explained(address, Message(payload="test", response_code=503)), 503)


async def test_a_call_through_nginx_is_ok_and_shows_the_headers_that_nginx_changed(tmp_path: Path) -> None:
    change = "proxy_set_header x-real-ip $remote_addr; proxy_set_header x-forwarded-for $proxy_add_x_forwarded_for;"
    async with producing() as url, nginx(tmp_path, before(url, change)) as address:
        hop = await explained(address)
    assert (hop.outcome, hop.diagnosis) == (Outcome.OK, None)
    changes = {(change.name, change.group, change.change) for change in hop.header_diff.request}
    assert changes >= {
        ("x-real-ip", "forwarding", "added"),
        ("x-forwarded-for", "forwarding", "added"),
        ("host", "other", "changed"),
        ("traceparent", "tracing", "same"),
    }
    assert [change.name for change in hop.header_diff.reply if change.change == "added"] == ["server"]


# Replies of meshes and load balancers


ENVOY_HEADERS = {"content-type": "text/plain", "server": "envoy"}
SIDECAR_HEADERS = {"content-type": "text/plain", "server": "istio-envoy"}
CONNECT_ERROR = "upstream connect error or disconnect/reset before headers."
GOOGLE_PAGE = (
    '<html><head>\n<meta http-equiv="content-type" content="text/html;charset=utf-8">\n'
    "<title>502 Server Error</title>\n"
    "</head>\n<body text=#000000 bgcolor=#ffffff>\n<h1>Error: Server Error</h1>\n<h2>The server encountered a temporary"
    " error and could not complete your request.<p>Please try again in 30 seconds.</h2>\n<h2></h2>\n</body></html>\n"
)

REPLIES: dict[str, tuple[str, dict[str, str], str, str, str]] = {
    "no healthy upstream": (
        *("503 Service Unavailable", ENVOY_HEADERS, "no healthy upstream"),
        *("Envoy", "Envoy knows no healthy endpoint"),
    ),
    "refused behind the sidecar": (
        "503 Service Unavailable",
        SIDECAR_HEADERS,
        f"{CONNECT_ERROR} reset reason: remote connection failure, transport failure reason: delayed connect error:"
        " 111",
        *("Istio's Envoy", "Envoy could not connect to the producer"),
    ),
    "reset behind Envoy": (
        *("503 Service Unavailable", ENVOY_HEADERS, f"{CONNECT_ERROR} reset reason: connection termination"),
        *("Envoy", "Envoy could not connect to the producer"),
    ),
    "another root certificate": (
        "503 Service Unavailable",
        SIDECAR_HEADERS,
        f"{CONNECT_ERROR} reset reason: remote connection failure, transport failure reason: TLS_error:|268435581:SSL"
        " routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end",
        *("Istio's Envoy", "Envoy could not do TLS with the other side"),
    ),
    "TLS to a plain port": (
        "503 Service Unavailable",
        SIDECAR_HEADERS,
        f"{CONNECT_ERROR} reset reason: connection failure, transport failure reason: TLS error: 268435612:SSL"
        " routines:OPENSSL_internal:HTTP_REQUEST",
        *("Istio's Envoy", "Envoy could not do TLS with the other side"),
    ),
    "RBAC": (
        *("403 Forbidden", SIDECAR_HEADERS, "RBAC: access denied"),
        *("Istio's Envoy", "An AuthorizationPolicy denies"),
    ),
    "upstream request timeout": (
        *("504 Gateway Timeout", ENVOY_HEADERS, "upstream request timeout"),
        *("Envoy", "A timeout of the mesh or gateway is shorter"),
    ),
    "stream timeout": (
        *("408 Request Timeout", ENVOY_HEADERS, "stream timeout"),
        *("Envoy", "A timeout of the mesh or gateway is shorter"),
    ),
    "fault filter abort": (
        *("500 Internal Server Error", SIDECAR_HEADERS, "fault filter abort"),
        *("Istio's Envoy", "A fault is injected on purpose"),
    ),
    "fault filter abort of Google's load balancer": (
        *("500 Internal Server Error", {"via": "1.1 google", "content-type": "text/plain"}, "fault filter abort"),
        *("Google Cloud load balancer", "has no healthy backend"),
    ),
    "no healthy upstream of Google's load balancer": (
        *("503 Service Unavailable", {"via": "1.1 google", "content-type": "text/plain"}, "no healthy upstream"),
        *("Google Cloud load balancer", "A Google Cloud load balancer stands between"),
    ),
    "REGISTRY_ONLY": (
        *("502 Bad Gateway", {"server": "istio-envoy", "date": "Mon, 02 Nov 2026 10:00:00 GMT"}, ""),
        *("Istio's Envoy", "The sidecar does not know"),
    ),
    "Google's 502 page": (
        *("502 Bad Gateway", {"content-type": "text/html; charset=UTF-8", "via": "1.1 google"}, GOOGLE_PAGE),
        *("Google Cloud load balancer", "A Google Cloud load balancer stands between"),
    ),
    "Google's 502 page without via": (
        *(
            "502 Bad Gateway",
            {"content-type": "text/html; charset=UTF-8", "referrer-policy": "no-referrer"},
            GOOGLE_PAGE,
        ),
        *("Google Cloud load balancer", "A Google Cloud load balancer stands between"),
    ),
    "default backend of GKE": (
        "404 Not Found",
        {"content-type": "text/plain; charset=utf-8", "via": "1.1 google"},
        "response 404 (backend NotFound), service rules for the path non-existent \n",
        *("Google Cloud load balancer", "none for this host and path"),
    ),
    "circuit breaker": (
        *("503 Service Unavailable", SIDECAR_HEADERS | {"x-envoy-overloaded": "true"}),
        *(f"{CONNECT_ERROR} reset reason: overflow", "Istio's Envoy", "circuit breaker"),
    ),
    "rate limit": (
        *("429 Too Many Requests", SIDECAR_HEADERS | {"x-envoy-ratelimited": "true"}, "local_rate_limited"),
        *("Istio's Envoy", "rate limit"),
    ),
    "another service behind the sidecar": (
        "404 Not Found",
        {"content-type": "application/json", "server": "istio-envoy", "x-envoy-upstream-service-time": "3"},
        *('{"detail":"Not Found"}', "Istio's Envoy", "passed on the reply of something behind it"),
    ),
    "an unknown server": (
        *("404 Not Found", {}, "404 page not found\n", "unknown", "PRODUCER_URL leads to something else"),
    ),
}
"""Status, headers and body; the proxy, and a phrase of the first cause."""


@pytest.mark.parametrize(("status", "headers", "body", "name", "phrase"), REPLIES.values(), ids=REPLIES)
async def test_a_reply_of_a_mesh_or_load_balancer_is_recognized(
    status: str, headers: dict[str, str], body: str, name: str, phrase: str
) -> None:
    async with listening(replying(http_reply(status, headers, body))) as address:
        hop = await explained(address)
    assert hop.outcome is Outcome.PROXY_ERROR
    assert (hop.answered_by.who, hop.answered_by.name) == ("proxy", name)
    assert hop.diagnosis is not None
    assert hop.diagnosis.severity == "error"
    assert phrase in causes_of(hop)[0], causes_of(hop)


@pytest.mark.parametrize(
    ("headers", "evidence"),
    [
        ((("server", "envoy"), ("x-answered-by", "sample-producer")), "x-answered-by: sample-producer"),
        ((("via", "1.1 google"), ("X-Answered-By", "sample-producer")), "x-answered-by: sample-producer"),
    ],
)
async def test_the_marker_header_outweighs_the_headers_that_a_proxy_adds(
    headers: Sequence[tuple[str, str]], evidence: str
) -> None:
    async with listening(replying(http_reply("500 Internal Server Error", dict(headers), "oops"))) as address:
        hop = await explained(address)
    assert (hop.outcome, hop.answered_by.who, hop.answered_by.evidence) == (Outcome.HTTP_ERROR, "producer", evidence)


async def test_text_of_a_proxy_cannot_break_out_of_the_sentence() -> None:
    """The text of a reply is truncated to one line, and no command contains it."""
    headers = {"server": "nginx {caller} $(touch x)", "content-type": "text/html"}
    body = "no healthy upstream {namespace} `touch x`\n" * 1000
    async with listening(replying(http_reply("503 X", headers, body))) as address:
        hop = await explained(address)
    assert hop.diagnosis is not None
    assert "{caller} $(touch x)" in hop.diagnosis.summary
    assert not any("touch" in cause.command for cause in hop.diagnosis.causes)
    assert hop.error is not None
    assert "\n" not in hop.error
    assert len(hop.error) < 400
