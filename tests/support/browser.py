"""The page in a real browser, and what stands between the browser and the caller."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

NARROW, WIDE = 320, 1280
FORMATS = [(scheme, width) for scheme in ("light", "dark") for width in (WIDE, NARROW)]
INSECURE = "caller.invalid"
"""A name of loopback that is no localhost to the browser: a page from there is not a secure context."""
BY_ITSELF = ("Failed to load resource", "The Cross-Origin-Opener-Policy header has been ignored")
"""That a reply of the API is an error, and that a page from `INSECURE` cannot be set apart."""
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-lcd-text",
    "--disable-background-networking",
    "--no-first-run",
    f"--host-resolver-rules=MAP {INSECURE} 127.0.0.1",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome") or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("there is no Chromium")
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser,
    url: str,
    *,
    width: int = WIDE,
    scheme: str = "light",
    headers: Mapping[str, str] | None = None,
    forced_colors: bool = False,
    bypass_csp: bool = False,
) -> Iterator[Page]:
    """The page in a browser of its own; at the end, nothing may have gone wrong.

    All that the browser logs as an error counts, but for what it says `BY_ITSELF`.
    """
    problems: list[str] = []
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        forced_colors="active" if forced_colors else "none",
        reduced_motion="reduce",
        extra_http_headers=dict(headers or {}),
        bypass_csp=bypass_csp,
    )
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: (
            problems.append(message.text)
            if message.type in ("error", "warning") and not message.text.startswith(BY_ITSELF)
            else None
        ),
    )
    page.on(
        "requestfailed",
        lambda request: (
            problems.append(f"{request.failure} {request.url}")
            if request.failure != "net::ERR_ABORTED" and urlsplit(request.url).path.endswith((".js", ".css"))
            else None
        ),
    )
    page.on(
        "response",
        lambda reply: (
            problems.append(f"{reply.status} {reply.url}")
            if reply.status >= 400 and not urlsplit(reply.url).path.startswith("/caller/")
            else None
        ),
    )
    try:
        page.goto(url)
        yield page
    finally:
        context.close()
    assert problems == [], problems


def submit(page: Page, **fields: str) -> str:
    """Fill the fields, submit, wait for the end of the call; the sentence."""
    fill(page, fields)
    page.click("#submit")
    expect(page.locator("#submit")).to_be_enabled()
    return page.inner_text("#sentence")


def fill(page: Page, fields: Mapping[str, str]) -> None:
    """Fill the fields and leave each, since what is wrong with it then takes room and moves the button below it."""
    for name, value in fields.items():
        page.fill(f"#{name}", value)
        page.locator(f"#{name}").blur()


def show(page: Page, view: str) -> None:
    page.get_by_role("navigation").get_by_role("button", name=view, exact=True).click()


def run(page: Page, **fields: str) -> str:
    """Fill the fields, run, wait for the end of the run; the sentence."""
    show(page, "Run")
    fill(page, fields)
    page.click("#start")
    expect(page.locator("#start")).to_be_enabled(timeout=90_000)
    return page.inner_text("#run-sentence")


def verdict(page: Page) -> str:
    """What stands in large."""
    return page.inner_text("[data-part=verdict]")


def entries(root: Page | Locator, part: str) -> dict[str, str]:
    """A definition list as a dict."""
    rows = root.locator(f"[data-part={part}] > div")
    return dict(zip(rows.locator("dt").all_inner_texts(), rows.locator("dd").all_inner_texts(), strict=True))


def phases(page: Page) -> dict[str, str]:
    rows = page.locator("[data-part=phases] tr")
    millis = rows.locator("td:nth-child(2)").all_inner_texts()
    return dict(zip(rows.locator("th").all_inner_texts(), millis, strict=True))


def header_table(page: Page, place: str) -> dict[str, str]:
    """The headers of one place, opened by its summary."""
    details = page.locator("[data-part=headers] details", has_text=place)
    details.locator("summary").click()
    rows = details.locator("tbody tr")
    return dict(zip(rows.locator("th").all_inner_texts(), rows.locator("td").all_inner_texts(), strict=True))


def outcome(page: Page) -> str | None:
    return page.get_attribute("#sentence", "data-outcome")


def marks(part: Locator) -> list[tuple[str, str]]:
    """Each mark's word and shape."""
    found: list[tuple[str, str]] = part.locator(".mark").evaluate_all(
        "marks => marks.map(mark => [mark.textContent,"
        " getComputedStyle(mark, '::before').content.split('\"')[1].trim()])"
    )
    return [(word, shape) for word, shape in found]


def unfold(page: Page) -> None:
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """An HTTP server in threads; its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def in_front_of(service: str, replies: Mapping[str, tuple[int, str, str]]) -> Iterator[str]:
    """A proxy before the caller that answers some paths itself, with status, content type and body; its URL."""

    class Proxy(BaseHTTPRequestHandler):
        server_version, sys_version = "ingress", ""

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.path in replies:
                status, kind, text = replies[self.path]
                content = text.encode()
            else:
                headers = {"content-type": self.headers.get("content-type", "")}
                reply = httpx.request(
                    self.command, service + self.path, content=sent, headers=headers, trust_env=False, timeout=60
                )
                status, kind, content = reply.status_code, reply.headers["content-type"], reply.content
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Proxy) as url:
        yield url


def assert_fits_and_is_accessible(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    violations = Axe().run(page).response["violations"]
    assert [(violation["id"], [node["target"] for node in violation["nodes"]]) for violation in violations] == []
