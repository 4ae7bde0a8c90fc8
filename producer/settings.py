from pydantic import Field

from common.settings import ServiceSettings


class Settings(ServiceSettings):
    fault_seed: int | None = Field(
        default=None, description="seed of the coin behind `faultRate`, for a repeatable run"
    )
