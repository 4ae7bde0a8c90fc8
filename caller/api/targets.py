import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from caller.explain.dns import DnsReport
from caller.explain.explain import Explainer
from caller.settings import Settings
from caller.target import NameKind, Target
from common.messages import ClusterMetadata, Wire
from common.problems import FieldError, Refused

router = APIRouter(tags=["messages"])


class TargetReport(Wire):
    """A target, and its DNS report."""

    name: str = Field(examples=["http://sample-producer.istio-apps.svc.clusterset.local:8080"])
    kind: NameKind
    dns: DnsReport | None = Field(description="null: not requested")


class Targets(Wire):
    """The targets, PRODUCER_URL first; the identity of the caller; the limits of a message and of a run."""

    caller_metadata: ClusterMetadata
    targets: list[TargetReport]
    max_payload_bytes: int
    max_delay_millis: int
    call_timeout_seconds: float
    run_max_rate: float
    run_max_seconds: float


async def explainer_of(request: Request) -> Explainer:
    explainer: Explainer = request.state.explainer
    return explainer


@router.get("/caller/targets", summary="The targets that may be called, each with its DNS report")
async def targets(
    explainer: Annotated[Explainer, Depends(explainer_of)],
    dns: Annotated[bool, Query(description="false: immediately, without the DNS reports")] = True,
) -> Targets:
    settings, identity = explainer.client.settings, explainer.client.identity

    async def about(target: Target) -> TargetReport:
        report = (await explainer.dns.about(target))[0] if dns else None
        return TargetReport(name=target.name, kind=target.kind, dns=report)

    return Targets(
        caller_metadata=identity.metadata,
        targets=await asyncio.gather(*map(about, settings.targets)),
        max_payload_bytes=settings.max_payload_bytes,
        max_delay_millis=settings.max_delay_millis,
        call_timeout_seconds=settings.call_timeout_seconds,
        run_max_rate=settings.run_max_rate,
        run_max_seconds=settings.run_max_seconds,
    )


def allowed_target(name: str | None, settings: Settings, field: str = "target") -> Target:
    """The target with this name; None is the first. `field`: where the request names it.

    :raises Refused: 422 with the list of allowed targets: a host from a request is never called.
    """
    try:
        return settings.target(name)
    except ValueError as error:
        raise Refused(422, [FieldError(field=field, value=str(name)[:100], message=str(error))]) from None
