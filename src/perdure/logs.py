"""Structured logs: a constant event name, ids in fields, JSON on request.

Every layer logs through its own stdlib logger (`perdure.actors`, `perdure.workflow`, …) with the event's name as the
message and everything else in `extra=fields(…)`. Importing Perdure installs no handler; `perdure run` does.

Whatever a line is logged by, it says whose code that was: of which instance, of which activity. Finding that out costs
something only where a line is written.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from asyncio import events
from contextvars import ContextVar
from typing import Any, Protocol

_FIELDS = "perdure_fields"
#: What every record has; whatever else one has was given as `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", _FIELDS}


class Subject(Protocol):
    """Whose code runs."""

    def log_fields(self) -> dict[str, Any]:
        """Its ids."""


#: Set where code of users runs as a task or in a thread; workflow code is known by its event loop.
SUBJECT: ContextVar[Subject | None] = ContextVar("perdure_subject", default=None)

#: What every JSON line of this process says.
_process: dict[str, Any] = {}


def identify(**ids: Any) -> None:
    """Has every JSON line of this process say these; None takes one away."""
    for name, value in ids.items():
        if value is None:
            _process.pop(name, None)
        else:
            _process[name] = value


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """What to pass as `extra=`: the event's ids and values, None left out."""
    return {_FIELDS: {name: value for name, value in values.items() if value is not None}}


def about(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says beside its text: whose code logs, the trace that it is part of, and what was given with it."""
    found: dict[str, Any] = {}
    subject: Any = SUBJECT.get()
    loop = events._get_running_loop()
    # By the type: any other question, the loop of workflow code refuses.
    if loop is not None and hasattr(type(loop), "log_fields"):
        subject = loop
    if subject is not None:
        found |= subject.log_fields()
    api = sys.modules.get("opentelemetry.trace")
    if api is not None:
        span = api.get_current_span().get_span_context()
        if span.is_valid:
            found |= {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
    found |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
    found |= getattr(record, _FIELDS, {})
    return found


class TextFormatter(logging.Formatter):
    """`12:00:00.123 INFO perdure.workflow stalled instance=order-7 reason=…`"""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock}.{int(record.msecs):03d} {record.levelname:<7} {record.name} {record.getMessage()}"
        for name, value in about(record).items():
            line += f" {name}={value}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, the process's ids and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **_process,
            **about(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        try:
            return json.dumps(entry, default=str, allow_nan=False)
        except Exception:  # noqa: BLE001 - values of users, which may do anything: the line is written all the same
            return json.dumps({str(name): _safe(value) for name, value in entry.items()})


def _safe(value: Any) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception as error:  # noqa: BLE001 - as above
        return f"<a {type(value).__name__} that cannot be shown: {type(error).__name__}>"


def configure(level: str = "INFO", *, as_json: bool = False) -> None:
    """Sends Perdure's logs to stderr, and those of all others unless somebody has said where they go. For programs
    (`perdure run`, `app.run()`), never for libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logger = logging.getLogger("perdure")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
    root = logging.getLogger()
    ours = [each for each in root.handlers if isinstance(each.formatter, JsonFormatter | TextFormatter)]
    if not root.handlers or ours:
        for each in ours:
            root.removeHandler(each)
        root.addHandler(handler)
        # What libraries have to say for their own developers is not asked for with --log-level DEBUG.
        root.setLevel(max(logger.level, logging.INFO))
