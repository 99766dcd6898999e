"""Workflow programs as data: made from a seed, run by one workflow function, with an outcome known beforehand.

Whatever may happen in either order leaves the same outcome, so that a disturbed run can be compared.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any

from perdure.statestore.contract import ActorId
from perdure.workflow.activity_context import ActivityContext
from perdure.workflow.context import WorkflowContext
from perdure.workflow.registry import Registry
from perdure.workflow.retry import RetryPolicy
from perdure.workflow.tasks import TaskFailedError, when_all, when_any
from tests.simulation.ledger import LEDGER

Op = list[Any]
#: Outcome of an operation that nothing is said of.
ANYTHING = "anything"

registry = Registry()


class Lethal:
    """Ends the process that its caller runs in. Workflow code sees no context variable of it."""

    def __init__(self) -> None:
        self.kill: Callable[[], None] = lambda: None
        self.wait: Callable[[float], Awaitable[None]]


LETHAL = Lethal()

PATIENT = RetryPolicy(
    first_retry_interval=timedelta(milliseconds=20), max_number_of_attempts=50, backoff_coefficient=1.0
)


# --- what runs them ----------------------------------------------------------------------------------------------------


@registry.activity(name="double")
async def double(ctx: ActivityContext, number: int) -> int:
    await LEDGER.get().run(ctx)
    return number * 2


@registry.activity(name="flaky")
async def flaky(ctx: ActivityContext, number: int) -> int:
    """Fails the first times that it is tried."""
    runs = await LEDGER.get().run(ctx)
    if runs <= number % 3:
        raise ValueError("not yet")
    return number


@registry.activity(name="deadly")
async def deadly(ctx: ActivityContext, seconds: float) -> str:
    """Ends its process after a time."""
    await LEDGER.get().run(ctx)
    await LETHAL.wait(seconds)
    LETHAL.kill()
    return "alive"


@registry.activity(name="broken")
async def broken(ctx: ActivityContext, number: int) -> int:
    await LEDGER.get().run(ctx)
    raise RuntimeError(f"broken {number}")


async def remote(ctx: ActivityContext, number: int) -> int:
    """Only the other app has it."""
    await LEDGER.get().run(ctx)
    return number * 3


@registry.workflow(name="program")
async def program(ctx: WorkflowContext, input: dict[str, Any]) -> list[Any]:
    ops, out = input["ops"], input["out"]
    for index, op in enumerate(ops):
        kind = op[0]
        if kind == "again":
            ctx.continue_as_new({"ops": ops[index + 1 :], "out": out})
            return []
        if kind == "collect":
            _, name, left = op
            out.append((await ctx.wait_for_external_event(name))["t"])
            if left > 1:
                ctx.continue_as_new({"ops": [["collect", name, left - 1], *ops[index + 1 :]], "out": out})
                return []
            continue
        out.append(await perform(ctx, op))
    return out


#: The other app: it has the same, and more.
other = Registry()
for _each in (double, flaky, broken):
    other.activity(name=_each.__name__)(_each)
other.activity(name="remote")(remote)
other.workflow(name="program")(program)

REGISTRIES = {"sim": registry, "other": other}


# In the worlds of `tests.simulation.limits` only so many of these may be under way.
registry.workflow(name="narrow")(program)
registry.workflow(name="tight")(program)


async def perform(ctx: WorkflowContext, op: Op) -> Any:
    match op:
        case ["act", number]:
            return await ctx.call_activity(double, input=number)
        case ["flaky", number]:
            return await ctx.call_activity(flaky, input=number, retry_policy=PATIENT)
        case ["broken", number]:
            try:
                return await ctx.call_activity(broken, input=number)
            except TaskFailedError as error:
                return error.details.type
        case ["all", *numbers]:
            return await when_all([ctx.call_activity(double, input=n) for n in numbers])
        case ["any", *numbers]:
            tasks = [ctx.call_activity(double, input=n) for n in numbers]
            await when_any(tasks)
            return await when_all(tasks)
        case ["leave", number]:
            ctx.call_activity(double, input=number)
            return "left"
        case ["timer", milliseconds]:
            await ctx.create_timer(timedelta(milliseconds=milliseconds))
            return "fired"
        case ["event", name]:
            return (await ctx.wait_for_external_event(name))["v"]
        case ["never", name, milliseconds]:
            try:
                return await ctx.wait_for_external_event(name, timeout=timedelta(milliseconds=milliseconds))
            except TimeoutError:
                return "timeout"
        case ["race", name, milliseconds]:
            with contextlib.suppress(TimeoutError):
                await ctx.wait_for_external_event(name, timeout=timedelta(milliseconds=milliseconds))
            return ANYTHING
        case ["child", ops]:
            return await ctx.call_child_workflow(program, input={"ops": ops, "out": []})
        case ["child_left", ops]:
            ctx.call_child_workflow(program, input={"ops": ops, "out": []})
            return "left"
        case ["child_fails", number]:
            try:
                return await ctx.call_child_workflow(program, input={"ops": [["raise", number]], "out": []})
            except TaskFailedError:
                return "failed"
        case ["remote", number]:
            return await ctx.call_activity("remote", input=number, app_id="other")
        case ["away", ops]:
            data = {"ops": ops, "out": []}
            return await ctx.call_child_workflow("program", input=data, app_id="other")
        case ["away_left", ops]:
            ctx.call_child_workflow("program", input={"ops": ops, "out": []}, app_id="other")
            return "left"
        case ["nowhere", kind]:
            # The other app has neither.
            try:
                if kind == "activity":
                    return await ctx.call_activity("nowhere", app_id="other")
                return await ctx.call_child_workflow("nowhere", app_id="other")
            except TaskFailedError as error:
                return error.details.type
        case ["detach", instance_id, ops]:
            return ctx.detach(program, instance_id=instance_id, input={"ops": ops, "out": []})
        case ["detach_later", instance_id, ops, milliseconds]:
            data = {"ops": ops, "out": []}
            later = timedelta(milliseconds=milliseconds)
            return ctx.detach(program, instance_id=instance_id, input=data, start_at=later)
        case ["send", target, name, value]:
            data = {"t": f"send:{ctx.instance_id}:{ctx.execution_id}:{ctx.new_uuid()}", "v": value}
            ctx.send_event(target, name, data)
            return "sent"
        case ["status", value]:
            ctx.set_custom_status(value)
            return value
        case ["unstorable"]:
            # Made here: in the input it would be the start that cannot be stored.
            ctx.set_custom_status("poi" + "son")
            return "stored"
        case ["die"]:
            LETHAL.kill()
            return "alive"
        case ["deadly", seconds]:
            # Beside another one, so that it is not always its workflow's own node that it ends.
            beside = ctx.call_activity(double, input=1)
            result = await ctx.call_activity(deadly, input=seconds)
            await beside
            return result
        case ["branches", *ops]:
            return await when_all([perform(ctx, each) for each in ops])
        case ["raise", number]:
            raise ValueError(f"failed {number}")
        case ["limited", name, *numbers]:
            # Of `tests.simulation.limits`.
            return await when_all([ctx.call_activity(name, input=n) for n in numbers])
    raise AssertionError(op)


# --- what comes out of them --------------------------------------------------------------------------------------------


def expected(ops: list[Op]) -> list[Any] | None:
    """The result of a program; None: it fails. A collector's tokens are `ANYTHING`."""
    out: list[Any] = []
    for op in ops:
        if op[0] == "raise":
            return None
        if op[0] == "again":
            continue
        if op[0] == "collect":
            out += [ANYTHING] * op[2]
        else:
            out.append(_outcome(op))
    return out


def _outcome(op: Op) -> Any:
    match op:
        case ["act", number]:
            return number * 2
        case ["flaky", number]:
            return number
        case ["broken", _]:
            return "RuntimeError"
        case ["all" | "any", *numbers]:
            return [n * 2 for n in numbers]
        case ["leave", _] | ["child_left", _] | ["away_left", _]:
            return "left"
        case ["remote", number]:
            return number * 3
        case ["nowhere", kind]:
            return "ActivityNotRegistered" if kind == "activity" else "WorkflowNotRegistered"
        case ["timer", _]:
            return "fired"
        case ["event", name]:
            return f"value of {name}"
        case ["never", _, _]:
            return "timeout"
        case ["race", _, _]:
            return ANYTHING
        case ["child" | "away", ops]:
            return expected(ops)
        case ["child_fails", _]:
            return "failed"
        case ["detach", instance_id, _] | ["detach_later", instance_id, _, _]:
            return instance_id
        case ["send", _, _, _]:
            return "sent"
        case ["status", value]:
            return value
        case ["branches", *ops]:
            return [_outcome(each) for each in ops]
        case ["limited", _, *numbers]:
            return numbers
    raise AssertionError(op)


def fits(found: Any, wanted: Any) -> bool:
    """Whether an outcome is the expected one."""
    if wanted == ANYTHING:
        return True
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(fits(a, b) for a, b in zip(found, wanted, strict=True))
        )
    return bool(found == wanted)


def events_of(ops: list[Op]) -> Iterator[tuple[str, int]]:
    """The events that a program needs, each with how many: those of its own, not of its children."""
    for op in ops:
        if op[0] == "event":
            yield op[1], 1
        elif op[0] == "race":
            yield op[1], -1
        elif op[0] == "collect":
            yield op[1], op[2]
        elif op[0] == "branches":
            yield from events_of(op[1:])


# --- making them -------------------------------------------------------------------------------------------------------


class Maker:
    """Makes programs of one run; names and ids are unique in it."""

    def __init__(self, rng: random.Random, *, apps: bool = False) -> None:
        """`apps`: there is another app to call."""
        self.rng = rng
        self._apps = apps
        self._count = 0

    def name(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def program(self, *, size: int, depth: int = 0, events: bool = True, again: bool = True) -> list[Op]:
        rng = self.rng
        ops = [self.op(depth=depth, events=events) for _ in range(rng.randint(1, size))]
        if again and rng.random() < 0.25:
            ops.insert(rng.randint(0, len(ops)), ["again"])
        if events and depth == 0 and rng.random() < 0.2:
            # Last: what is left over of one name is then all of this program's.
            ops.append(["collect", self.name("collect"), rng.randint(2, 4)])
        return ops

    def op(self, *, depth: int, events: bool) -> Op:
        rng = self.rng
        number = rng.randint(1, 99)
        kinds = ["act"] * 5 + ["flaky", "broken", "all", "any", "leave", "timer", "timer", "never", "status"]
        if events:
            kinds += ["event"] * 3 + ["race"]
        if depth < 2:
            kinds += ["child", "child", "child_left", "child_fails", "detach"]
        if depth == 0:
            kinds += ["branches"]
        if self._apps:
            kinds += ["remote"] * 3 + ["nowhere"]
            kinds += ["away", "away", "away_left"] if depth < 2 else []
        kind = rng.choice(kinds)
        match kind:
            case "act" | "flaky" | "broken" | "leave" | "child_fails" | "remote":
                return [kind, number]
            case "nowhere":
                return [kind, rng.choice(["activity", "workflow"])]
            case "all" | "any":
                return [kind, *(rng.randint(1, 99) for _ in range(rng.randint(1, 4)))]
            case "timer":
                return [kind, rng.choice([0, 1, 10, 100, 1000])]
            case "event":
                return [kind, self.name("e")]
            case "never" | "race":
                return [kind, self.name("n"), rng.choice([1, 50, 300])]
            case "status":
                return [kind, self.name("status")]
            case "child" | "child_left" | "away" | "away_left":
                return [kind, self.program(size=2, depth=depth + 1, events=False)]
            case "detach":
                return [
                    kind,
                    self.name("detached-"),
                    self.program(size=2, depth=depth + 1, events=False),
                ]
            case "branches":
                return [
                    kind,
                    *(self.op(depth=1, events=events) for _ in range(rng.randint(2, 3))),
                ]
        raise AssertionError(kind)


def detached_of(ops: list[Op], app: str = "sim") -> Iterator[tuple[str, str, list[Op]]]:
    """All detached programs of a program and its children, with their apps and instance ids."""
    for op in ops:
        match op:
            case ["detach", instance_id, inner] | ["detach_later", instance_id, inner, _]:
                yield app, instance_id, inner
                yield from detached_of(inner, app)
            case ["child" | "child_left", inner]:
                yield from detached_of(inner, app)
            case ["away" | "away_left", inner]:
                yield from detached_of(inner, "other")
            case ["branches", *inner]:
                yield from detached_of(inner, app)


def app_of(actor: ActorId) -> str:
    """The app of a workflow actor."""
    return actor.type.split(".")[-2]
