"""Drives one coroutine or generator of workflow code by hand."""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Sequence
from inspect import isgenerator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.errors import LoopBlocked
from perdure.workflow.misuse import refuse_awaitable, translate
from perdure.workflow.tasks import Broken, MakeError, Task, Waiter

if TYPE_CHECKING:
    from perdure.workflow.run import InProcessRun

T = TypeVar("T")
Code = Coroutine[Any, Any, T] | Generator[Any, Any, T]

#: How often code that is closed may wait again in its `finally` before it is left alone.
_CLOSE_ATTEMPTS = 100


class Branch(Waiter[T]):
    """Code that runs beside others; a task whose result is what the code returns."""

    __slots__ = ("_code", "_send", "_trace", "_waits_for")

    def __init__(self, run: InProcessRun, code: Code[T]) -> None:
        super().__init__(run)
        self._code = code
        self._send = code.send
        self._waits_for: Task[Any] | None = None
        self._trace: TracebackType | None = None

    def _wake(self, task: Task[Any]) -> None:
        self._run.ready.append(self)

    def _step(self) -> None:
        """Runs the code until it waits for a task that is not settled, or ends. Raises only `LoopBlocked`."""
        task = self._waits_for
        value: Any = None
        error: BaseException | None = None
        if task is not None:
            value, error = task._value, task._error
        send = self._send
        while True:
            try:
                if error is None:
                    yielded = send(value)
                else:
                    yielded = self._code.throw(
                        error.with_traceback(task._origin() if task is not None else None)
                    )
            except StopIteration as stop:
                self._returned(stop.value)
                return
            except LoopBlocked:
                raise
            except BaseException as raised:  # noqa: BLE001 - the code's, whatever it is: SystemExit too
                self._raised(translate(raised))
                return
            if isinstance(yielded, Task) and yielded._run is self._run:
                if not yielded._settled:
                    self._waits_for = yielded
                    if yielded._waiters is None:
                        yielded._waiters = [self]
                    else:
                        yielded._waiters.append(self)
                    return
                task, value, error = yielded, yielded._value, yielded._error
            else:
                task, error = None, refuse_awaitable(yielded, generator=isgenerator(self._code))

    def _cancel(self, make: MakeError) -> Sequence[Task[Any]]:
        waits = self._waits_for
        if waits is not None and not waits._settled:
            return (waits,)
        # It is about to go on, or to begin: with this error then.
        self._waits_for = Broken(self._run, make(self))
        return ()

    def _returned(self, value: Any) -> None:
        self._run.ended(self._code)
        self._settle(value)

    def _raised(self, error: BaseException) -> None:
        self._run.ended(self._code)
        self._trace = error.__traceback__
        self._settle(None, error)

    def _origin(self) -> TracebackType | None:
        return self._trace

    def _close(self) -> None:
        """Ends the code where it waits. Whatever its `finally` raises is nobody's: the outcome stands already."""
        try:
            self._code.throw(GeneratorExit())
            for _ in range(_CLOSE_ATTEMPTS):
                self._code.throw(GeneratorExit())
        except BaseException:  # noqa: BLE001 - see above
            return
        finally:
            # The two know each other: apart, thousands of closed runs are freed without the garbage collector.
            task, self._waits_for = self._waits_for, None
            if task is not None:
                task._waiters = None

    def _describe(self) -> str:
        return str(getattr(self._code, "__name__", "branch"))


class Root(Branch[Any]):
    """The workflow function itself."""

    __slots__ = ()

    def _returned(self, value: Any) -> None:
        self._run.ended(self._code)
        self._run.finish(value)

    def _raised(self, error: BaseException) -> None:
        self._run.ended(self._code)
        self._run.fail(error)
