import os
import subprocess
import sys

import pytest

from caller.settings import Settings as CallerSettings
from caller.target import parse_target
from lab.processes import ROOT


@pytest.mark.parametrize(
    ("text", "url", "kind"),
    [
        ("sample-producer", "http://sample-producer:8080/producer/messages", "short"),
        ("sample-producer.istio-apps", "http://sample-producer.istio-apps:8080/producer/messages", "short"),
        ("localhost:9", "http://localhost:9/producer/messages", "other"),
        ("http://sample-producer:8080/", "http://sample-producer:8080/producer/messages", "short"),
        ("http://gateway.example.com/prefix", "http://gateway.example.com/prefix/producer/messages", "other"),
        ("https://producer.example.com", "https://producer.example.com/producer/messages", "other"),
        ("10.0.0.1:80", "http://10.0.0.1/producer/messages", "other"),
        ("http://[::1]:8080", "http://[::1]:8080/producer/messages", "other"),
        (
            "sample-producer.istio-apps.svc.clusterset.local",
            "http://sample-producer.istio-apps.svc.clusterset.local:8080/producer/messages",
            "clusterset.local",
        ),
        (
            "sample-producer.istio-apps.svc.cluster.local",
            "http://sample-producer.istio-apps.svc.cluster.local:8080/producer/messages",
            "cluster.local",
        ),
    ],
)
def test_a_host_a_host_and_port_and_a_url_are_targets(text: str, url: str, kind: str) -> None:
    target = parse_target(text)
    assert (str(target.url), target.kind) == (url, kind)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no host"),
        ("http://", "no host"),
        ("ftp://a", "scheme"),
        ("http://user:secret@host", "credentials"),
        ("http://host/?a=b", "query"),
        ("host:0", "port 0"),
        ("host:99999", "expected a host, host:port or URL"),
        ("host:port", "expected a host, host:port or URL"),
        ("sample-producer.istio-apps.svc.clusterset.local.", "ends in a dot"),
        ("a..b", "label ''"),
        ("a b", "label"),
        ("-a", "label"),
        ("x" * 64, "label"),
        (".".join(["x" * 60] * 5), "the maximum of a DNS name is 253"),
        ("::1", "expected a host, host:port or URL"),
    ],
)
def test_an_invalid_target_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal:
        parse_target(text)
    assert "secret" not in str(refusal.value)


def test_the_targets_are_the_producer_url_and_the_compare_urls_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRODUCER_URL", "a")
    monkeypatch.setenv("COMPARE_URLS", "b:1, https://c ,http://a:8080,,")
    assert [target.name for target in CallerSettings().targets] == ["http://a:8080", "http://b:1", "https://c"]


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The downward API gives an empty string for a label that the pod does not have."""
    monkeypatch.setenv("ZONE", "")
    monkeypatch.setenv("PORT", "")
    assert (CallerSettings().zone, CallerSettings().port) == (None, 8080)


@pytest.mark.parametrize(
    ("text", "path"), [("", ""), ("/", ""), ("/caller", "/caller"), ("/caller/", "/caller"), ("/a/b-1", "/a/b-1")]
)
def test_a_root_path_ends_without_a_slash(monkeypatch: pytest.MonkeyPatch, text: str, path: str) -> None:
    monkeypatch.setenv("ROOT_PATH", text)
    assert CallerSettings().root_path == path


BAD = [
    ("producer", "PORT", "99999", "less than or equal to 65535"),
    ("producer", "PORT", "http", "valid integer"),
    ("producer", "MAX_DELAY_MILLIS", "-1", "greater than or equal to 0"),
    ("producer", "DRAIN_SECONDS", "soon", "valid number"),
    ("producer", "LOG_FORMAT", "xml", "'auto', 'json' or 'text'"),
    ("producer", "FAULT_SEED", "x", "valid integer"),
    ("caller", "PRODUCER_URL", "ftp://a", "expected scheme http or https, got 'ftp'"),
    ("caller", "PRODUCER_URL", "http://user:secret@host", "must not contain credentials"),
    ("caller", "COMPARE_URLS", "a,b c", "label"),
    ("caller", "CONNECT_TIMEOUT_SECONDS", "0", "greater than 0"),
    ("caller", "CALL_TIMEOUT_SECONDS", "nan", "CALL_TIMEOUT_SECONDS"),
    ("caller", "ROOT_PATH", "caller", "expected a path such as /caller-ui"),
    ("caller", "ROOT_PATH", "/a//b", "expected a path such as /caller-ui"),
    ("caller", "ROOT_PATH", "/a?b", "expected a path such as /caller-ui"),
]


@pytest.mark.parametrize(("service", "variable", "value", "reason"), BAD)
def test_an_invalid_value_is_one_line_with_the_variable_and_status_2(
    service: str, variable: str, value: str, reason: str
) -> None:
    arguments = ["caller", "serve"] if service == "caller" else ["producer"]
    ended = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], variable: value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith(f"{variable}=")
    assert reason in ended.stderr
    assert "Value error" not in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "secret" not in ended.stderr
