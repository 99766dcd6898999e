"""What a PostgreSQL server's settings mean for whoever keeps state in it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.statestore.contract import Finding

#: Connections still free below which somebody will soon be refused.
FEW_CONNECTIONS = 10

#: One row, which any user may read.
SETTINGS = """
SELECT current_setting('server_version') AS version, current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') AS standbys,
    current_setting('max_connections')::bigint AS connections,
    (SELECT coalesce(sum(numbackends), 0) FROM pg_stat_database)::bigint AS used,
    (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c
        WHERE c.relkind = 'r' AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'perdure.actors'::regclass)
    )::bigint AS bytes
"""


def findings(row: Mapping[str, Any], synchronous_commit: str | None) -> list[Finding]:
    """`row` is that of `SETTINGS`; `synchronous_commit` what the store's URL says instead of the server."""
    found = [_durability(row, synchronous_commit or row["synchronous_commit"])]
    if row["full_page_writes"] == "off":
        said = "full_page_writes=off: a power cut can leave pages that are half old, half new"
        found.append(Finding("warning", "durability", said, "turn it on, unless the disk writes whole pages"))
    left = row["connections"] - row["used"]
    said = f"{row['used']} of {row['connections']} are in use"
    if left < FEW_CONNECTIONS:
        advice = "raise max_connections, put a pooler in between, or give nodes fewer (?connections=)"
        found.append(Finding("warning", "connections", said, advice))
    else:
        found.append(Finding("ok", "connections", said))
    found.append(
        Finding("ok", "server", f"PostgreSQL {row['version']}, {row['bytes'] / 1e6:.0f} MB used by the store")
    )
    return found


def _durability(row: Mapping[str, Any], level: str) -> Finding:
    if row["fsync"] == "off":
        said = "fsync=off: a crash of the server's machine can destroy everything"
        return Finding("error", "durability", said, "set fsync=on")
    if level == "off":
        said = "synchronous_commit=off: a crash of the server loses the last moments"
        return Finding("warning", "durability", said, "set synchronous_commit=on, unless that is meant")
    standbys = (
        f"waits for {row['standbys']}" if row["standbys"] and level != "local" else "waits for no standby"
    )
    return Finding("ok", "durability", f"fsync=on, synchronous_commit={level}, {standbys}")
