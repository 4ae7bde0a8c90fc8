import pytest

from common.messages import ClusterMetadata, Message, Only
from producer.faults import Faults, matches
from tests.support.servers import in_process, producer_app

HERE = ClusterMetadata(cluster_name="gke-2", zone="us-central1-b", pod_name="pod-1")


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (None, True),
        (Only(), True),
        (Only(cluster_name="gke-2"), True),
        (Only(cluster_name="gke-2", zone="us-central1-b", pod_name="pod-1"), True),
        (Only(cluster_name="gke-1"), False),
        (Only(cluster_name="gke-2", zone="us-central1-a"), False),
        (Only(pod_name=""), False),
    ],
)
def test_a_fault_applies_where_every_named_field_matches(only: Only | None, expected: bool) -> None:
    assert matches(only, HERE) is expected


def test_a_rate_of_one_always_applies_and_of_zero_never() -> None:
    faults = Faults()
    assert all(faults.apply(Message(payload="a", fault_rate=1), HERE) for _ in range(1000))
    assert not any(faults.apply(Message(payload="a", fault_rate=0), HERE) for _ in range(1000))


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.4, 0.51, 0.9])
def test_faults_apply_at_the_rate_of_the_message(rate: float) -> None:
    """Within five standard deviations in 10,000 draws; the seed makes them the same draws each time."""
    faults = Faults(seed=1)
    applied = sum(faults.apply(Message(payload="a", fault_rate=rate), HERE) for _ in range(10_000))
    assert applied / 10_000 == pytest.approx(rate, abs=5 * (rate * (1 - rate) / 10_000) ** 0.5)


def test_a_seed_repeats_the_draws() -> None:
    def draws(seed: int) -> list[bool]:
        faults = Faults(seed)
        return [faults.apply(Message(payload="a", fault_rate=0.5), HERE) for _ in range(64)]

    assert draws(7) == draws(7) != draws(8)


async def test_a_call_without_a_fault_is_answered_200() -> None:
    async with in_process(producer_app(fault_seed=3)) as client:
        body = {"payload": "a", "responseCode": 503, "faultRate": 0.5}
        replies = [await client.post("/producer/messages", json=body) for _ in range(40)]
    statuses = {reply.json()["faultApplied"]: reply.status_code for reply in replies}
    assert statuses == {True: 503, False: 200}
