"""Asking a node over HTTP."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from perdure.cli.failures import CommandError, usage
from perdure.cli.options import TOKEN_VARIABLES, api_token

if TYPE_CHECKING:
    from perdure.workflow.record import Record

Json = dict[str, Any]

#: An answer without a body, which is not the answer `null`.
EMPTY: Any = object()

#: Seconds without an answer after which a node counts as gone; longer than any one long poll (`waiting.STEP`), and
#: than a node tries to reach the owner of an instance.
TIMEOUT = 75.0


class Refused(CommandError):
    """The node answered with an error."""

    def __init__(self, message: str, http_status: int) -> None:
        super().__init__(message)
        self.http_status = http_status


class Unreachable(CommandError):
    """No answer came from the node."""


class Node:
    """A node's HTTP API. One connection, kept open."""

    def __init__(self, url: str, timeout: float = TIMEOUT) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise usage(f"{url!r} is not the address of a node; write one such as http://127.0.0.1:3500")
        try:
            port = parts.port
        except ValueError:
            raise usage(f"{url!r} has no valid port") from None
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.url = url.rstrip("/")
        self._base = parts.path.rstrip("/")
        self._token = api_token()
        self._timeout = timeout
        self._connection = kind(parts.hostname, port, timeout=timeout)

    def request(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        body: bytes | None = None,
        *,
        key: str | None = None,
    ) -> Any:
        """The decoded answer, `EMPTY` for an empty one; `Refused` for an error. `key`: the caller's, with which it
        may be sent again."""
        if query:
            path += "?" + urlencode(
                {name: value for name, value in query.items() if value is not None}, doseq=True
            )
        headers: dict[str, str | bytes] = {} if body is None else {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key.encode()
        if self._token is not None:
            headers["dapr-api-token"] = self._token
        try:
            self._connection.request(method, self._base + path, body, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        return self._decoded(answer, content)

    def _unreachable(self, error: Exception) -> Unreachable:
        self._connection.close()
        if isinstance(error, ConnectionRefusedError | socket.gaierror):
            return Unreachable(
                f"no node answers at {self.url} ({error.strerror}); start one with 'perdure run', or name another with "
                "--server"
            )
        if isinstance(error, TimeoutError):
            return Unreachable(f"{self.url} gave no answer within {self._timeout:g} s")
        return Unreachable(f"no answer from {self.url}: {error or type(error).__name__}")

    def _decoded(self, answer: http.client.HTTPResponse, content: bytes) -> Any:
        try:
            found = json.loads(content) if content else EMPTY
        except ValueError:
            raise CommandError(
                f"what answers at {self.url} is no Perdure node: {answer.status} {answer.reason}, "
                f"{answer.headers.get_content_type()}"
            ) from None
        if answer.status < 400:
            return found
        if answer.status == 401:
            wrong = "does not take the API token given" if self._token else "wants an API token"
            raise Refused(f"{self.url} {wrong}: set {TOKEN_VARIABLES[0]}", 401)
        message = found.get("message") if isinstance(found, dict) else None
        raise Refused(str(message or f"{self.url} answered {answer.status} {answer.reason}"), answer.status)

    def close(self) -> None:
        self._connection.close()

    # --- what can be read, as `offline.StoreReader` reads it ---------------------------------------------------------

    def workflow_type(self) -> str:
        """The actor type of the node's workflows."""
        about = self.request("GET", "/v1.0/metadata")
        return f"dapr.internal.{about['namespace']}.{about['id']}.workflow"

    def workflow(self, id: str) -> Json:
        return self._object(instance_path(id))

    def workflows(self, query: Json) -> Json:
        return self._object("/v1.0/workflows/dapr", query)

    def history(self, id: str, query: Json) -> Json:
        return self._object(f"{instance_path(id)}/history", query)

    def record(self, id: str) -> bytes:
        """The exported instance: one line of JSON."""
        found = self._object(f"{instance_path(id)}/export")
        return json.dumps(found, separators=(",", ":")).encode()

    def add(self, record: Record, line: bytes, replace: bool) -> None:
        """Imports an instance. `Refused` when its id exists, and it is not to `replace` that."""
        query = {"replace": "true" if replace else None}
        self.request("POST", f"{instance_path(record.id)}/import", query, line.rstrip())

    def keys(self, type: str, id: str, query: Json) -> Json:
        return self._object(f"{actor_path(type, id)}/state", query)

    def value(self, type: str, id: str, key: str) -> Any:
        """`Refused` when there is no such key."""
        path = f"{actor_path(type, id)}/state/{quote(key, safe='')}"
        found = self.request("GET", path)
        if found is EMPTY:
            raise Refused(f"{type}/{id} has no state key {key!r}", 404)
        return found

    def reminders(self, type: str, id: str) -> Json:
        return self._object(f"{actor_path(type, id)}/reminders")

    def cluster(self) -> Json:
        return self._object("/v1.0/cluster")

    def examine(self) -> list[Json]:
        found: list[Json] = self._object("/v1.0/doctor")["findings"]
        return found

    def nodes(self) -> list[str]:
        """The URLs of nodes: this one knows of the others."""
        return [self.url]

    def _object(self, path: str, query: Json | None = None) -> Json:
        found = self.request("GET", path, query)
        if not isinstance(found, dict):
            raise CommandError(f"what answers at {self.url} is no Perdure node")
        return found


def instance_path(id: str) -> str:
    return f"/v1.0/workflows/dapr/{quote(id, safe='')}"


def actor_path(type: str, id: str) -> str:
    return f"/v1.0/actors/{quote(type, safe='')}/{quote(id, safe='')}"
