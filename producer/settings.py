from pydantic import Field

from common.settings import ServiceSettings


class Settings(ServiceSettings):
    fault_seed: int | None = Field(default=None, description="random seed of `faultRate`, for a repeatable run")
