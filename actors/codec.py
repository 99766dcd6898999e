"""What messages and answers are as bytes: which bodies an actor type takes, and how errors cross a link.

Never pickle: only what is registered, and plain values, can be sent or can arrive. Plain are None, bool, int, float,
str, bytes, and lists, tuples (which arrive as lists) and dicts with text keys of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args, get_type_hints

import msgspec

from perdure import errors
from perdure.actors import peer_messages as wire
from perdure.actors.handover import Release, Released
from perdure.actors.questions import NODE
from perdure.errors import InvalidInput, PerdureError
from perdure.payload import Payload

_SCALARS = (type(None), bool, int, float, str, bytes)
#: How deep lists and dicts may lie in each other.
_DEPTH = 20

Decode = Callable[[msgspec.Raw], Any]

_encode = msgspec.msgpack.Encoder().encode
_decode_plain: Decode = msgspec.msgpack.Decoder().decode


class _Bodies(NamedTuple):
    """The actor types whose names begin and end so take bodies of these types."""

    prefix: str
    suffix: str
    types: frozenset[type]
    decode: Decode


class _Named(msgspec.Struct, array_like=True):
    """A value with the name of its struct, or none when it is plain."""

    name: str
    value: msgspec.Raw


_decode_named = msgspec.msgpack.Decoder(_Named).decode


class Codec:
    """What one node can send and understand. Filled before the first message."""

    def __init__(self) -> None:
        """Knows user actors (their bodies are payloads), questions between nodes and their answers (structs and plain
        values), and every class of `perdure.errors`."""
        self._bodies: list[_Bodies] = []
        self._users = _bodies("", "", Payload)
        self._patient: set[type] = set()
        self._names: dict[type, str] = {}
        self._structs: dict[str, Decode] = {}
        self._errors: dict[str, type[PerdureError]] = {}
        self._fields: dict[str, dict[str, Any]] = {}
        for cls in (Release, Released):
            self.struct(cls)
        for value in vars(errors).values():
            if isinstance(value, type) and issubclass(value, PerdureError):
                self.error(value)

    # --- what there is -----------------------------------------------------------------------------------------------

    def bodies(self, types: Any, *, prefix: str, suffix: str) -> None:
        """Actor types whose names begin with `prefix` and end with `suffix` take bodies of `types`: one type, or a
        union of tagged structs."""
        self._bodies.append(_bodies(prefix, suffix, types))

    def waits(self, cls: type) -> None:
        """Answers to bodies of this type come when somebody else has done something. So there may be any number of
        them, and they never count as load: else they could keep out what they wait for."""
        self._patient.add(cls)

    def patient(self, body: Any) -> bool:
        """Whether `waits` was said of its type."""
        return type(body) in self._patient

    def struct(self, cls: type[msgspec.Struct]) -> None:
        """A struct that answers, and bodies of questions between nodes, may be. `ValueError` when there is another of
        its name."""
        if cls.__name__ in self._structs:
            raise ValueError(f"there is a struct named {cls.__name__} already")
        self._names[cls] = cls.__name__
        self._structs[cls.__name__] = msgspec.msgpack.Decoder(cls).decode

    def error(self, cls: type[PerdureError]) -> None:
        """An error that answers may be. The fields that its class annotates arrive with these types or not at all,
        others as plain values. `ValueError` when there is another of its name."""
        if cls.__name__ in self._errors:
            raise ValueError(f"there is an error named {cls.__name__} already")
        self._errors[cls.__name__] = cls
        self._fields[cls.__name__] = get_type_hints(cls)

    # --- bodies ------------------------------------------------------------------------------------------------------

    def encode_body(self, actor_type: str, body: Any) -> Any:
        """What is to be written in the body's place. `InvalidInput` when actors of this type take no such bodies."""
        if actor_type == NODE:
            return self._named(body)
        rule = self._rule(actor_type)
        if type(body) not in rule.types:
            known = ", ".join(sorted(one.__name__ for one in rule.types))
            raise InvalidInput(
                f"a body of type {type(body).__name__} cannot be sent to an actor of type {actor_type!r} on another "
                f"node; such actors take {known}"
            )
        return body

    def decode_body(self, actor_type: str, body: msgspec.Raw) -> Any:
        """`InvalidInput` when it is no body of such an actor."""
        try:
            if actor_type == NODE:
                named = _decode_named(body)
                return self._unnamed(named.name, named.value)
            return self._rule(actor_type).decode(body)
        except wire.UNREADABLE as error:
            raise InvalidInput(
                f"this is no body that an actor of type {actor_type!r} takes: {error}"
            ) from error

    def _rule(self, actor_type: str) -> _Bodies:
        for rule in self._bodies:
            if actor_type.startswith(rule.prefix) and actor_type.endswith(rule.suffix):
                return rule
        return self._users

    def _named(self, value: Any) -> _Named:
        name = self._names.get(type(value), "")
        if not name and not _is_plain(value):
            raise InvalidInput(f"a value of type {type(value).__name__} cannot be sent to another node")
        try:
            return _Named(name, msgspec.Raw(_encode(value)))
        except wire.UNWRITABLE as error:
            raise InvalidInput(f"this cannot be sent to another node: {error}") from error

    def _unnamed(self, name: str, value: msgspec.Raw) -> Any:
        decode = self._structs.get(name) if name else _decode_plain
        if decode is None:
            raise InvalidInput(f"this is a {name[:100]!r}, which this node does not know")
        return decode(value)

    # --- answers -----------------------------------------------------------------------------------------------------

    def encode_answer(self, number: int, answer: Any) -> wire.Reply:
        """The answer to message `number`. `InvalidInput` when it cannot be sent."""
        if type(answer) in _SCALARS:
            return wire.Value(number, answer)
        if isinstance(answer, BaseException):
            return _encode_error(number, answer)
        named = self._named(answer)
        return wire.Structure(number, named.name, named.value)

    def decode_answer(self, reply: wire.Reply) -> Any:
        """A value, or a `PerdureError` instance; one too when this node does not know what was answered."""
        if type(reply) is wire.Value:
            return reply.value
        if type(reply) is wire.Failure:
            return self._decode_error(reply)
        assert type(reply) is wire.Structure
        try:
            return self._unnamed(reply.name, reply.value)
        except wire.UNREADABLE as error:
            return PerdureError(f"the answer cannot be read: {error}")

    def _decode_error(self, failure: wire.Failure) -> PerdureError:
        cls = next((self._errors[name] for name in failure.names if name in self._errors), PerdureError)
        message = failure.message
        if failure.names and cls.__name__ != failure.names[0]:
            message = f"{failure.names[0]}: {message}"
        # Not by the class's own constructor, which may want what only its author knows.
        error = cls.__new__(cls, message)
        PerdureError.__init__(error, message, **self._carried(cls, failure.fields))
        return error

    def _carried(self, cls: type[PerdureError], given: Mapping[str, Any]) -> dict[str, Any]:
        declared = self._fields.get(cls.__name__, {})
        found: dict[str, Any] = {}
        for name, value in given.items():
            # Nothing from outside takes the place of what a class itself has.
            if not _is_field(name) or (hasattr(cls, name) and name not in declared):
                continue
            try:
                found[name] = msgspec.convert(value, declared[name]) if name in declared else value
            except msgspec.ValidationError:
                continue
        return found


def _bodies(prefix: str, suffix: str, types: Any) -> _Bodies:
    members = frozenset(get_args(types) or (types,))
    return _Bodies(prefix, suffix, members, msgspec.msgpack.Decoder(types).decode)


def _encode_error(number: int, error: BaseException) -> wire.Failure:
    if not isinstance(error, PerdureError):
        return wire.Failure(number, (), _text(f"{type(error).__name__}: {error}"), {})
    # With its bases, so that a node that does not know the class still knows what to do about it.
    bases = type(error).__mro__
    names = tuple(cls.__name__ for cls in bases if issubclass(cls, PerdureError) and cls is not PerdureError)
    carried = {name: value for name, value in vars(error).items() if _is_field(name) and _is_writable(value)}
    return wire.Failure(number, names, _text(error.message), carried)


def _is_field(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_") and name not in ("args", "message", "code")


def _is_writable(value: Any) -> bool:
    if not _is_plain(value):
        return False
    try:
        _encode(value)
    except wire.UNWRITABLE:
        return False
    return True


def _is_plain(value: Any, depth: int = 0) -> bool:
    if type(value) in _SCALARS:
        return True
    if depth == _DEPTH:
        return False
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item, depth + 1) for item in value)
    if type(value) is dict:
        return all(type(key) is str and _is_plain(item, depth + 1) for key, item in value.items())
    return False


def _text(text: str) -> str:
    """As it can be written: what an error says may be no Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()
