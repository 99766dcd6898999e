"""PrivateFolder: where the store's socket is, for this user alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

PREFIX = "perdure-nodes-"
SOCKET = "store.sock"
#: Seconds after which a folder whose socket nobody serves is one of a parent that was killed.
STALE = 60.0


class PrivateFolder:
    """Made under the system's folder for temporary files, as a path beside a database may be too long for a socket's
    name. Removes what killed parents of this user have left."""

    def __init__(self) -> None:
        _sweep(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))

    @property
    def socket(self) -> Path:
        return self.path / SOCKET

    def remove(self) -> None:
        """Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)


def _sweep(parent: Path) -> None:
    for folder in parent.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            about = folder.lstat()
            if (
                about.st_uid == os.geteuid()
                and time.time() - about.st_mtime > STALE
                and _dead(folder / SOCKET)
            ):
                (folder / SOCKET).unlink()
                folder.rmdir()


def _dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        return False
