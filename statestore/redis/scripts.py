"""The Lua scripts of this folder, by name."""

from __future__ import annotations

import hashlib
import re
from importlib import resources

from perdure.statestore.redis.link import packed

_LINE = re.compile(r"user_script:\s*(\d+)")
_CALL = re.compile(r"call\('([A-Z]+)'")


class Script:
    """One script; `sha` is what EVALSHA names it by."""

    def __init__(self, name: str, text: bytes = b"") -> None:
        """`text`: instead of that of its file."""
        self.name = name
        self.text = text or resources.files(__package__).joinpath(f"{name}.lua").read_bytes()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()

    def call(self, keys: tuple[bytes, ...], *args: str | bytes | int) -> bytes:
        """A call of it, ready to be sent."""
        return packed(b"EVALSHA", self.sha, len(keys), *keys, *args)

    def called(self, message: str) -> str:
        """Which command the script called in the line that an error names."""
        line = _LINE.search(message)
        lines = self.text.decode().splitlines()
        call = _CALL.search(lines[int(line[1]) - 1]) if line and int(line[1]) <= len(lines) else None
        return call[1] if call else "EVALSHA"


COMMIT = Script("commit")
LOAD = Script("load")
KEYS = Script("keys")
TAKE = Script("take")
RELEASE = Script("release")
SETTINGS = Script("settings")
SCAN = Script("scan")
COUNT = Script("count")
LEASE = Script("lease")
PROBE = Script("probe")

ALL = (COMMIT, LOAD, KEYS, TAKE, RELEASE, SETTINGS, SCAN, COUNT, LEASE, PROBE)
#: Sends them all to a server. Harmless where they are already.
LOADING = [packed(b"SCRIPT", b"LOAD", script.text) for script in ALL]
