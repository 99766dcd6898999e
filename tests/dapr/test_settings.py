"""Dapr's settings come from the environment."""

from __future__ import annotations

import pytest

from perdure.dapr import Settings


def test_the_environment_is_before_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAPR_API_TOKEN", "secret")
    monkeypatch.setenv("DAPR_HTTP_PORT", "3600")
    monkeypatch.delenv("DAPR_GRPC_PORT", raising=False)
    settings = Settings()
    assert (settings.DAPR_API_TOKEN, settings.DAPR_HTTP_PORT, settings.DAPR_GRPC_PORT) == (
        "secret",
        3600,
        50001,
    )


def test_what_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAPR_HTTP_PORT", "many")
    with pytest.raises(ValueError, match="DAPR_HTTP_PORT is 'many'"):
        Settings()
    monkeypatch.delenv("DAPR_HTTP_PORT")
    with pytest.raises(AttributeError, match="no setting 'DAPR_PORT'"):
        _ = Settings().DAPR_PORT
