"""Dapr's settings, from the environment."""

from __future__ import annotations

import os
from typing import Any

#: Their defaults. Of these only `DAPR_API_TOKEN` has an effect: there is no sidecar to reach.
DEFAULTS: dict[str, str | int | None] = {
    "HTTP_APP_PORT": 3000,
    "GRPC_APP_PORT": 3010,
    "DAPR_API_TOKEN": None,
    "DAPR_HTTP_ENDPOINT": None,
    "DAPR_GRPC_ENDPOINT": None,
    "DAPR_RUNTIME_HOST": "127.0.0.1",
    "DAPR_HTTP_PORT": 3500,
    "DAPR_GRPC_PORT": 50001,
    "DAPR_API_VERSION": "v1.0",
    "DAPR_API_METHOD_INVOCATION_PROTOCOL": "http",
    "DAPR_API_MAX_RETRIES": 0,
    "DAPR_API_TIMEOUT_SECONDS": 60,
    "DAPR_HTTP_TIMEOUT_SECONDS": 60,
    "DAPR_HEALTH_TIMEOUT": 60,
}


class Settings:
    """The environment as it was when this was made: one attribute per setting. Numbers stay numbers."""

    def __init__(self) -> None:
        for name, default in DEFAULTS.items():
            given = os.environ.get(name)
            setattr(self, name, _value(name, given, default) if given else default)

    # What the attributes are is known only above.
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"there is no setting {name!r}; known are {', '.join(DEFAULTS)}")


def _value(name: str, given: str, default: str | int | None) -> str | int:
    if not isinstance(default, int):
        return given
    try:
        return int(given)
    except ValueError:
        raise ValueError(f"{name} is {given!r} in the environment; it must be a whole number") from None


settings = Settings()
