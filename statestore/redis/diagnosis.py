"""Diagnosis: what a server's own account of itself means for a store."""

from __future__ import annotations

from collections.abc import Mapping

from perdure.statestore.contract import Finding
from perdure.statestore.redis.durability import Durability
from perdure.statestore.redis.link import Address, Error, Link, packed
from perdure.statestore.redis.session import parsed

#: The share of `maxmemory` above which a server is about to refuse writes.
NEARLY_FULL = 0.9

_SECTIONS = (b"server", b"memory", b"persistence", b"replication")
_SETTINGS = (b"appendonly", b"appendfsync", b"save")

Info = Mapping[str, str]


async def ask(link: Link) -> tuple[Info, Info | None]:
    """What a server says of its state, and of its settings; None: this user may not ask for these."""
    asked = [packed(b"INFO", section) for section in _SECTIONS]
    asked += [packed(b"CONFIG", b"GET", name) for name in _SETTINGS]
    answers = await link.ask(asked)
    info: dict[str, str] = {}
    for answer in answers[: len(_SECTIONS)]:
        info |= {} if isinstance(answer, Error) else parsed(answer)
    config: dict[str, str] = {}
    for answer in answers[len(_SECTIONS) :]:
        if isinstance(answer, Error) or len(answer) != 2:
            return info, None
        config[answer[0].decode()] = answer[1].decode()
    return info, config


def persistence(info: Info, config: Info | None) -> Finding:
    """What is lost when the server's process or machine ends."""
    subject = "durability"
    if info.get("aof_enabled") == "1":
        fsync = "" if config is None else config["appendfsync"]
        said = {
            "always": "appendfsync always: what is acknowledged is on disk",
            "everysec": "appendfsync everysec: about the last second is lost at a power cut",
            "no": "appendfsync no: what the system did not yet write is lost at a power cut",
        }.get(fsync, "an append-only file is written; how soon it is on disk, this user may not ask")
        if fsync == "no":
            return Finding("warning", subject, said, "set appendfsync everysec, or always")
        return Finding("ok", subject, said)
    advice = "set appendonly yes"
    if config is None:
        said = "no append-only file: unless it saves snapshots, all is lost when its process ends"
    elif config["save"]:
        said = "no append-only file: what changed since the last snapshot is lost when its process ends"
    else:
        said = "everything is in memory only: all is lost when its process ends"
    return Finding("warning", subject, said, advice)


def findings(address: Address, info: Info, config: Info | None, durability: Durability) -> list[Finding]:
    """All that is to be said of one server."""
    kind = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "?")
    found = [Finding("ok", "server", f"{kind} {version} at {address}"), persistence(info, config)]
    for name, file in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")):
        if info.get(name, "ok") != "ok":
            said = f"the last time it wrote its {file} it failed"
            found.append(Finding("error", "disk", said, "see the server's log; its disk may be full"))
    found.append(_memory(info))
    replicas = int(info.get("connected_slaves", "0"))
    if replicas < durability.replicas:
        said = f"{replicas} replicas are connected; durability= waits for {durability.replicas}"
        found.append(Finding("error", "replicas", said, "nothing is acknowledged until there are so many"))
    else:
        found.append(Finding("ok", "replicas", f"{replicas} connected"))
    return found


def _memory(info: Info) -> Finding:
    used, most = int(info.get("used_memory", "0")), int(info.get("maxmemory", "0"))
    policy = info.get("maxmemory_policy", "noeviction")
    said = f"{used / 1e6:.0f} MB used" + (f" of {most / 1e6:.0f} MB" if most else ", no maxmemory")
    if policy != "noeviction":
        advice = "set maxmemory-policy noeviction"
        return Finding("error", "memory", f"{said}; {policy}: keys are thrown away when it is short", advice)
    if most and used > most * NEARLY_FULL:
        return Finding("warning", "memory", said, "raise maxmemory: a full server stops every workflow")
    return Finding("ok", "memory", said)
