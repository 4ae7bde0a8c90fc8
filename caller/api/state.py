"""Dependencies of the routes: what the app opens at start-up (`caller.app`)."""

from typing import Annotated

from fastapi import Depends, Request

from caller.explain.explain import Explainer


async def explainer_of(request: Request) -> Explainer:
    explainer: Explainer = request.state.explainer
    return explainer


Explains = Annotated[Explainer, Depends(explainer_of)]
