"""Notices, from a thread of its own, when code holds the event loop, and interrupts it."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Collection
from types import CodeType, FrameType

from perdure.errors import LoopBlocked
from perdure.logs import fields

log = logging.getLogger("perdure.watchdog")

#: Seconds that user code may hold the loop before `LoopBlocked` is raised inside it.
BLOCKED_AFTER = 2.0
#: Further seconds after which the process ends, if it may: somebody else can do its work then.
STUCK_AFTER = 3.0
#: Seconds between two signs of life of the loop.
BEAT = 0.25
#: Seconds of silence that one look adds at most.
MOST_PER_LOOK = 2 * BEAT
#: What to do about it, for whoever reads the log.
ADVICE = "what waits or computes for long belongs in an activity that is a plain function (def): it runs in a thread"
#: The exit status of a process that ended itself: EX_SOFTWARE of sysexits.h.
STUCK_STATUS = 70


class Watchdog:
    """`start` on the loop that is to be watched. `codes`: the code objects of the user's functions; the exception is
    raised only while one of them is on the loop's stack, so that it never hits the runtime's own code. `waits`: code
    of the runtime that may wait for a disk; ending the process for that would help nobody."""

    def __init__(
        self,
        codes: Collection[CodeType],
        *,
        waits: Collection[CodeType] = (),
        blocked_after: float = BLOCKED_AFTER,
        stuck_after: float = STUCK_AFTER,
        may_exit: bool = False,
    ) -> None:
        self._codes = frozenset(codes)
        self._waits = frozenset(waits)
        self._blocked_after = blocked_after
        self._stuck_after = stuck_after
        self._may_exit = may_exit
        self._last = time.monotonic()
        self._stop = threading.Event()
        self._handle: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._loop_thread = 0

    def start(self) -> None:
        self._loop_thread = threading.get_ident()
        self._beat(asyncio.get_running_loop())
        self._thread = threading.Thread(target=self._watch, name="perdure-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Idempotent."""
        self._stop.set()
        if self._handle is not None:
            self._handle.cancel()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._last = time.monotonic()
        self._handle = loop.call_later(BEAT, self._beat, loop)

    def _watch(self) -> None:
        seen, woke, silent, interrupted = self._last, time.monotonic(), 0.0, False
        while not self._stop.wait(BEAT):
            now = time.monotonic()
            # Time in which this thread did not run either is nobody's doing: the process or the whole machine stood
            # still, or had no processor.
            silent += min(now - woke, MOST_PER_LOOK)
            woke = now
            if self._last != seen:
                seen, silent, interrupted = self._last, 0.0, False
            elif silent < self._blocked_after or self._excused():
                continue
            elif not interrupted:
                # Once per blockage: code that catches it gets no second one, but the process's end.
                interrupted = True
                self._interrupt(silent, seen)
            elif silent > self._blocked_after + self._stuck_after:
                self._stuck(silent)

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._loop_thread)

    def _excused(self) -> bool:
        """Somebody sits in a debugger, or the disk is slow: that time does not count."""
        frame = self._frame()
        while frame is not None:
            if frame.f_code in self._waits or frame.f_globals.get("__name__") in ("pdb", "bdb", "pydevd"):
                return True
            frame = frame.f_back
        return False

    def _interrupt(self, silent: float, seen: float) -> None:
        # Nothing that lets the loop's thread run may stand between the look and the raise: the exception would come
        # up wherever the thread is by then, in the runtime itself perhaps. So it is logged afterwards.
        frame = self._frame()
        user = self._users(frame)
        if user is not None and self._last == seen:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._loop_thread), ctypes.py_object(LoopBlocked)
            )
            log.error(
                "loop.blocked",
                extra=fields(seconds=round(silent, 1), **_whose(user), advice=ADVICE, stack=_stack(frame)),
            )
        else:
            log.warning("loop.blocked", extra=fields(seconds=round(silent, 1), stack=_stack(frame)))

    def _users(self, frame: FrameType | None) -> FrameType | None:
        """The innermost frame of a registered function of the user."""
        while frame is not None and frame.f_code not in self._codes:
            frame = frame.f_back
        return frame

    def _stuck(self, silent: float) -> None:
        frame = self._frame()
        user = self._users(frame)
        log.critical(
            "loop.stuck",
            extra=fields(
                seconds=round(silent, 1),
                **_whose(user),
                exit_status=STUCK_STATUS if self._may_exit else None,
                advice=None if user is None else ADVICE,
                stack=_stack(frame),
            ),
        )
        if self._may_exit:
            # Nothing acknowledged is lost by it, and every other instance goes on in the next process.
            sys.stderr.flush()
            os._exit(STUCK_STATUS)


def _whose(user: FrameType | None) -> dict[str, str]:
    if user is None:
        return {}
    return {"function": user.f_code.co_qualname, "at": f"{user.f_code.co_filename}:{user.f_lineno}"}


def _stack(frame: FrameType | None) -> str:
    return "" if frame is None else "".join(traceback.format_stack(frame)[-12:])
