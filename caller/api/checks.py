from typing import Annotated

from fastapi import APIRouter, Depends, Request

from caller.check.model import CheckReport
from caller.check.preflight import Preflight

router = APIRouter(tags=["messages"])


async def preflight_of(request: Request) -> Preflight:
    preflight: Preflight = request.state.preflight
    return preflight


@router.get("/caller/checks", summary="Preflight, step by step; one call to each target")
async def checks(preflight: Annotated[Preflight, Depends(preflight_of)]) -> CheckReport:
    return await preflight.report()
