from caller.cli.call_report import why_absent
from common.messages import Message
from tests.support.servers import calling, http_reply, listening, producing, replying


async def test_an_absent_phase_has_its_reason() -> None:
    async with producing() as url, calling(url) as client:
        target = client.settings.producer_url
        first = await client.call(Message(payload="a"), target)
        second = await client.call(Message(payload="a"), target)
    assert [why_absent(first, phase) for phase in ("dns", "tls")] == ["IP address", "plain HTTP"]
    assert second.connection.reused
    assert [why_absent(second, phase) for phase in ("dns", "connect", "tls")] == [
        "reused connection",
        "reused connection",
        "plain HTTP",
    ]


async def test_a_phase_after_the_failure_was_not_reached() -> None:
    async with calling("http://127.0.0.1:1") as client:
        hop = await client.call(Message(payload="a"), client.settings.producer_url)
    assert [why_absent(hop, phase) for phase in ("send", "wait", "body")] == ["not reached"] * 3


async def test_a_delay_that_the_producer_omits_is_not_reported() -> None:
    headers = {"x-answered-by": "sample-producer", "server-timing": "work;dur=0.1"}
    async with listening(replying(http_reply("200 OK", headers, "{}"))) as address, calling(address) as client:
        hop = await client.call(Message(payload="a"), client.settings.producer_url)
    assert hop.phases.producer_work_millis == 0.1
    assert hop.phases.producer_delay_millis is None
    assert why_absent(hop, "delay") == "not reported"
