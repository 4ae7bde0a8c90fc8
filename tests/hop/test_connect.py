"""Connecting to one of several addresses (RFC 8305), with real sockets of loopback."""

import asyncio
import os
import resource
import socket
import sys
import time

import pytest

from caller.hop.connect import ATTEMPT_DELAY, MAX_ATTEMPTS, NO_ANSWER, Connecting, interleaved
from caller.hop.model import Hop
from caller.hop.outcome import Outcome
from caller.hop.resolver import Addresses
from common.messages import Message
from lab.processes import free_port
from tests.support.servers import calling_one_of, producing, swallowing

MESSAGE = Message(payload="test")
TIMEOUT_SECONDS = 0.5
TOLERANCE_SECONDS = 0.3
"""A failure is explained at most this long after its timeout."""


async def hop_to(*addresses: str, timeout: float = TIMEOUT_SECONDS) -> Hop:
    async with calling_one_of(*addresses, connect_timeout_seconds=timeout) as client:
        return await client.call(MESSAGE, client.settings.producer_url, connection="fresh")


def errors(hop: Hop) -> list[str | None]:
    return [attempt.error for attempt in hop.connection.attempts]


def refusing() -> str:
    return f"127.0.0.1:{free_port()}"


async def test_ten_dead_addresses_are_one_timeout() -> None:
    async with swallowing() as dead:
        hop = await hop_to(*[dead] * 10)
    assert (hop.outcome, hop.status_code) == (Outcome.CONNECT_TIMEOUT, 504)
    assert TIMEOUT_SECONDS - 0.01 <= hop.round_trip_time_millis / 1000 <= TIMEOUT_SECONDS + TOLERANCE_SECONDS
    assert errors(hop) == [NO_ANSWER] * 10
    assert {attempt.address for attempt in hop.connection.attempts} == {dead}
    assert sum(attempt.millis for attempt in hop.connection.attempts) > hop.round_trip_time_millis, "in parallel"
    assert hop.error is not None
    assert hop.error.startswith("no connection within 0.5")


async def test_a_live_address_behind_ten_dead_ones_is_reached_within_the_timeout() -> None:
    timeout = 1.5
    async with swallowing() as dead, producing() as url:
        hop = await hop_to(*[dead] * 10, url.removeprefix("http://"), timeout=timeout)
    assert hop.outcome is Outcome.OK
    assert errors(hop) == [*[NO_ANSWER] * 10, None]
    assert hop.connection.peer_address == hop.connection.attempts[-1].address == url.removeprefix("http://")
    assert hop.phases.connect_millis is not None
    assert hop.phases.connect_millis < timeout * 1000


async def test_the_second_address_is_tried_after_the_attempt_delay() -> None:
    async with swallowing() as dead, producing() as url:
        hop = await hop_to(dead, url.removeprefix("http://"), timeout=30)
    assert errors(hop) == [NO_ANSWER, None]
    assert hop.phases.connect_millis is not None
    assert ATTEMPT_DELAY * 1000 - 5 <= hop.phases.connect_millis < 5000, "not after the timeout of 30 s"


async def test_a_refusal_is_followed_by_the_next_address_immediately() -> None:
    async with producing() as url:
        hop = await hop_to(refusing(), url.removeprefix("http://"), timeout=30)
    assert hop.outcome is Outcome.OK
    assert errors(hop) == ["ECONNREFUSED", None]
    assert hop.phases.connect_millis is not None
    assert hop.phases.connect_millis < ATTEMPT_DELAY * 1000


async def test_the_addresses_after_the_one_that_answers_are_not_tried() -> None:
    async with swallowing() as dead, producing() as url:
        hop = await hop_to(dead, url.removeprefix("http://"), refusing(), timeout=30)
    assert errors(hop) == [NO_ANSWER, None]


UNREACHABLE = "255.255.255.255:8080"
"""The kernel itself refuses TCP to the broadcast address."""


@pytest.mark.parametrize("refused_first", [True, False])
async def test_a_refusal_decides_the_outcome_whatever_its_place(refused_first: bool) -> None:
    addresses = [refusing(), UNREACHABLE]
    hop = await hop_to(*(addresses if refused_first else addresses[::-1]), timeout=30)
    assert hop.outcome is Outcome.REFUSED
    assert hop.error is not None
    assert hop.error.startswith("ECONNREFUSED")
    assert hop.round_trip_time_millis < 5000
    assert "ECONNREFUSED" in errors(hop)
    assert len(errors(hop)) == 2


async def test_a_refusal_beside_a_dead_address_is_a_timeout_with_both_attempts() -> None:
    async with swallowing() as dead:
        refused = refusing()
        hop = await hop_to(dead, refused)
    assert hop.outcome is Outcome.CONNECT_TIMEOUT
    assert [(attempt.address, attempt.error) for attempt in hop.connection.attempts] == [
        (dead, NO_ANSWER),
        (refused, "ECONNREFUSED"),
    ]


async def test_more_addresses_than_are_tried() -> None:
    hop = await hop_to(*[refusing()] * (MAX_ATTEMPTS + 50), timeout=30)
    assert hop.outcome is Outcome.REFUSED
    assert errors(hop) == ["ECONNREFUSED"] * MAX_ATTEMPTS


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
async def test_both_families_are_tried() -> None:
    async with producing() as url:
        port = free_port()
        hop = await hop_to(refusing(), url.removeprefix("http://"), f"[::1]:{port}", timeout=30)
    assert hop.outcome is Outcome.OK
    assert [attempt.address for attempt in hop.connection.attempts][1] == f"[::1]:{port}"
    assert errors(hop)[1] in ("ECONNREFUSED", "EADDRNOTAVAIL")  # the latter without an address of IPv6
    assert errors(hop)[2] is None


# RFC 8305, 4


def addresses(*names: str) -> Addresses:
    return [(socket.AF_INET6 if name.startswith("six") else socket.AF_INET, (name, 80)) for name in names]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ""),
        ("four1", "four1"),
        ("six1 six2 four1 four2", "six1 four1 six2 four2"),
        ("four1 four2 six1 six2", "four1 six1 four2 six2"),
        ("six1 six2 six3 four1", "six1 four1 six2 six3"),
        ("four1 six1 six2 six3", "four1 six1 six2 six3"),
        ("four1 four2", "four1 four2"),
    ],
)
def test_the_families_alternate_and_keep_their_order(given: str, expected: str) -> None:
    assert interleaved(addresses(*given.split())) == addresses(*expected.split())


# No socket is left


def open_sockets() -> int:
    return sum(1 for name in os.listdir("/proc/self/fd") if is_socket(name))


def is_socket(descriptor: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    except OSError:  # that of listdir
        return False


async def wait_for_sockets(expected: int) -> None:
    """Until the servers have closed their side too."""
    deadline = time.monotonic() + 10
    while open_sockets() != expected:
        assert time.monotonic() < deadline, f"{open_sockets()} open sockets, expected {expected}"
        await asyncio.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
async def test_every_attempt_is_closed() -> None:
    async with swallowing() as dead, producing() as url:
        live = url.removeprefix("http://")
        async with calling_one_of(*[dead] * 10, connect_timeout_seconds=0.2) as client:
            target = client.settings.producer_url
            before = open_sockets()
            assert (await client.call(MESSAGE, target)).outcome is Outcome.CONNECT_TIMEOUT
            assert open_sockets() == before
            call = asyncio.create_task(client.call(MESSAGE, target))
            await asyncio.sleep(0.1)
            assert open_sockets() > before
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert open_sockets() == before
        for others in ([dead] * 3, [refusing()] * 3, [UNREACHABLE] * 3, [dead, refusing()]):
            before = open_sockets()
            assert (await hop_to(*others, live, timeout=2)).outcome is Outcome.OK
            await wait_for_sockets(before)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
async def test_a_connection_that_opens_in_the_moment_of_a_cancellation_is_closed() -> None:
    """Both are noticed by the same step of the event loop, the connection first."""
    loop = asyncio.get_running_loop()
    async with producing() as url, calling_one_of(url.removeprefix("http://")) as client:
        before = open_sockets()
        call = asyncio.create_task(client.call(MESSAGE, client.settings.producer_url))
        await asyncio.sleep(0)
        loop.call_later(0.001, call.cancel)
        time.sleep(0.05)  # noqa: ASYNC251
        with pytest.raises(asyncio.CancelledError):
            await call
        await wait_for_sockets(before)


NO_FAMILY = 1000


async def test_a_socket_that_cannot_be_created_is_an_error_of_the_attempts() -> None:
    connecting = Connecting([(NO_FAMILY, ("127.0.0.1", 80))], 1)
    with pytest.raises(OSError, match="not supported"):
        await connecting.finished()
    assert connecting.attempts() == []


async def test_without_a_file_descriptor_the_address_is_unreachable_and_later_it_is_not() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with producing() as url, calling_one_of(url.removeprefix("http://")) as client:
        target = client.settings.producer_url
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            without = await client.call(MESSAGE, target, connection="fresh")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        hop = await client.call(MESSAGE, target, connection="fresh")
    assert (without.outcome, without.status_code) == (Outcome.UNREACHABLE, 502)
    assert (without.error or "").startswith("EMFILE")
    assert hop.outcome is Outcome.OK
