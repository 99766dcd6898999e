"""Python values to payload bytes and back: JSON, typed by annotation.

None is no payload, in both directions. Without an annotation a value is plain JSON: dict, list, str, int, float, bool.
JSON has no NaN and no infinities: they are written as null. pydantic is used only for types that are pydantic's.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast, get_args

import msgspec

from perdure.errors import ConfigurationError, InvalidInput, PayloadTooLarge

#: What crosses every boundary; None: no value.
Payload = bytes | None
#: Bytes of one payload at most.
LIMIT = 16 * 1024 * 1024
Decode = Callable[[Payload], Any]

#: No annotation, no default: `inspect`'s own mark.
EMPTY: Any = inspect.Parameter.empty

_NONE_TYPES = (None, type(None))
_UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError, NotImplementedError)


def encode(value: Any, what: str = "the value") -> Payload:
    """The JSON of a value; None for None. `InvalidInput` names `what` and the type that cannot be written,
    `PayloadTooLarge` `what` and how much it is."""
    if value is None:
        return None
    try:
        written = _encode(value)
    except _UNWRITABLE as error:
        raise InvalidInput(
            f"{what} has type {type(value).__name__}, which cannot be written as JSON: {error}. "
            "Use plain values, dataclasses, TypedDicts, enums, datetimes, UUIDs, Decimals or pydantic models"
        ) from error
    if len(written) > LIMIT:
        raise PayloadTooLarge(
            f"{what} has {len(written)} bytes; at most {LIMIT} are allowed: keep it elsewhere, and pass on where"
        )
    return written


def decode(payload: Payload, what: str = "the value") -> Any:
    """The plain JSON value of a payload; None for None. `InvalidInput` names `what`."""
    if payload is None:
        return None
    try:
        return _decode_plain(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid(what, error) from error


def decoder(annotation: Any, what: str, *, default: Any = EMPTY, required: bool = False) -> Decode:
    """A function that reads payloads of this annotation; it raises `InvalidInput` that names `what` and the field.

    No payload gives the default, or None; if `required`, then only where the annotation allows None.
    `ConfigurationError` when values of this annotation cannot be read from JSON at all.
    """
    if annotation is EMPTY or annotation is Any or annotation is object:
        read: Callable[[bytes], Any] = _decode_plain
        missing: Any = None
    else:
        read = _reader(annotation, what)
        missing = _value_of_null(read) if required else None
    if default is not EMPTY:
        missing = default

    def decode_typed(payload: Payload) -> Any:
        if payload is None:
            if missing is EMPTY:
                raise InvalidInput(f"{what} is missing: expected {_name(annotation)}")
            return missing
        try:
            return read(payload)
        except (ValueError, TypeError, NotImplementedError, RecursionError) as error:
            raise _invalid(what, error) from error

    return decode_typed


def _reader(annotation: Any, what: str) -> Callable[[bytes], Any]:
    if annotation in _NONE_TYPES:
        annotation = type(None)
    own = getattr(annotation, "__from_json__", None)
    if callable(own):
        # It stands for an annotation, and reads in its own way: see `perdure.dapr.values`.
        return cast(Callable[[bytes], Any], own)
    if _has_pydantic(annotation):
        read: Callable[[bytes], Any] = sys.modules["pydantic"].TypeAdapter(annotation).validate_json
        return read
    try:
        return msgspec.json.Decoder(annotation, dec_hook=_read_foreign).decode
    except (TypeError, NameError, RuntimeError) as error:
        raise ConfigurationError(
            f"{what} is annotated {_name(annotation)}, which cannot be read from JSON: {error}. "
            "Use a dataclass, a TypedDict or a pydantic model, or leave the annotation out for plain values"
        ) from error


def _value_of_null(read: Callable[[bytes], Any]) -> Any:
    try:
        return read(b"null")
    except (ValueError, TypeError, NotImplementedError):
        return EMPTY


def _has_pydantic(annotation: Any) -> bool:
    if "pydantic" not in sys.modules:
        return False
    if isinstance(annotation, type) and hasattr(annotation, "__pydantic_validator__"):
        return True
    return any(_has_pydantic(part) for part in get_args(annotation))


def _read_foreign(kind: Any, value: Any) -> Any:
    """msgspec's hook for types that it does not know; its own errors then carry the path."""
    if kind is object:
        return value
    if hasattr(kind, "__pydantic_validator__"):
        return kind.__pydantic_validator__.validate_python(value)
    raise TypeError(
        f"{_name(kind)} cannot be made from JSON: make it a dataclass, a TypedDict or a pydantic model"
    )


def _write_foreign(value: Any) -> Any:
    if type(value) is SimpleNamespace:
        return value.__dict__
    serializer = getattr(type(value), "__pydantic_serializer__", None)
    if serializer is None and hasattr(type(value), "__await__"):
        raise NotImplementedError("an `await` is missing in front of what made it")
    if serializer is None:
        raise NotImplementedError(f"{type(value).__name__} is not a JSON type")
    # By alias: that is how the model's validator reads it back.
    return msgspec.Raw(serializer.to_json(value, by_alias=True))


def _invalid(what: str, error: Exception) -> InvalidInput:
    if isinstance(error, msgspec.ValidationError):
        return InvalidInput(_explain(what, str(error)))
    problems = getattr(error, "errors", None)
    if callable(problems):  # pydantic's ValidationError
        return InvalidInput("; ".join(_explain_pydantic(what, problem) for problem in problems()[:5]))
    return InvalidInput(f"{what} is not valid JSON: {error}")


def _explain(what: str, text: str) -> str:
    problem, _, path = text.rpartition(" - at `")
    if not problem:
        problem, path = text, "$`"
    problem = problem[:1].lower() + problem[1:]
    field = path[:-1].removeprefix("$").removeprefix(".")
    return f"{what}: field `{field}`: {problem}" if field else f"{what}: {problem}"


def _explain_pydantic(what: str, problem: dict[str, Any]) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"])
    text = message[:1].lower() + message[1:]
    return f"{what}: field `{field}`: {text}" if field else f"{what}: {text}"


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


_encode = msgspec.json.Encoder(enc_hook=_write_foreign).encode
_decode_plain = msgspec.json.Decoder().decode
