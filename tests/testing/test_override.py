"""Activities that are something else for a while."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from unittest.mock import AsyncMock, Mock

import pytest

from perdure import ActivityContext, App, RetryPolicy, RuntimeStatus, WorkflowContext
from perdure.errors import ConfigurationError
from perdure.testing import blocking, override


@dataclass
class Order:
    id: str
    amount: int


app = App("overridden")


@app.activity
def charge(ctx: ActivityContext, order: Order) -> str:
    return f"charged {order.amount}"


@app.activity(retry_policy=RetryPolicy(first_retry_interval=timedelta(days=1), max_number_of_attempts=3))
async def ship(ctx: ActivityContext) -> str:
    return "shipped"


@app.workflow
async def buy(ctx: WorkflowContext, order: Order) -> list[str]:
    return [await ctx.call_activity(charge, input=order), await ctx.call_activity(ship)]


ORDER = Order("1", 5)


def test_it_lasts_as_long_as_the_context() -> None:
    with blocking(app) as perdure:
        with override(app, charge, lambda ctx, order: f"nothing for {order.id}") as charged:
            assert perdure.run(buy, ORDER).output == ["nothing for 1", "shipped"]
        assert charged.inputs == [ORDER]
        assert perdure.run(buy, ORDER).output == ["charged 5", "shipped"]
        assert charged.count == 1


def test_of_an_environment_until_its_end() -> None:
    with blocking(app) as perdure:
        perdure.override("charge", lambda ctx, order: "free")
        assert perdure.run(buy, ORDER).output == ["free", "shipped"]
    with blocking(app) as perdure:
        assert perdure.run(buy, ORDER).output == ["charged 5", "shipped"]


def test_one_within_another() -> None:
    with blocking(app) as perdure, override(app, ship, lambda ctx: "by sea"):
        with override(app, ship, lambda ctx: "by air"):
            assert perdure.run(buy, ORDER).output == ["charged 5", "by air"]
        assert perdure.run(buy, ORDER).output == ["charged 5", "by sea"]


def test_coroutine_functions_and_mocks() -> None:
    async def slowly(ctx: ActivityContext, order: Order) -> str:
        assert ctx.activity_name == "charge"
        return "slowly"

    with blocking(app) as perdure:
        perdure.override(charge, slowly)
        mock = AsyncMock(return_value="by hand")
        perdure.override(ship, mock)
        assert perdure.run(buy, ORDER).output == ["slowly", "by hand"]
        mock.assert_awaited_once()
        perdure.override(charge, Mock(side_effect=[KeyError("no"), "yes"]))
        failed = perdure.run(buy, ORDER)
        assert failed.runtime_status is RuntimeStatus.FAILED
        assert perdure.run(buy, ORDER).output == ["yes", "by hand"]


def test_what_it_raises_is_retried_as_the_activity_is() -> None:
    with blocking(app) as perdure:
        shipped = perdure.override(ship, Mock(side_effect=[OSError("storm"), OSError("storm"), "late"]))
        before = perdure.now
        assert perdure.run(buy, ORDER).output == ["charged 5", "late"]
        assert (perdure.now - before).days == 2
        assert shipped.inputs == [None, None, None]


def test_errors_of_the_caller() -> None:
    with pytest.raises(ConfigurationError, match="no activity 'pay'; it has: charge, ship"):
        override(app, "pay", lambda ctx: None)
    with pytest.raises(ConfigurationError, match="no activity 'buy'"):
        override(app, buy, lambda ctx: None)
    with pytest.raises(ConfigurationError, match="give a function, not 'free'"):
        override(app, charge, "free")  # type: ignore[arg-type]
