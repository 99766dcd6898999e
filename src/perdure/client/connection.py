"""The connections to a node: one request, sent again where that does no harm."""

from __future__ import annotations

import asyncio
import io
import os
import re
import sys
import time
import weakref
from typing import Any, NoReturn
from urllib.parse import urlencode, urlsplit

import aiohttp
from yarl import URL

from perdure.client.answers import ERROR_HEADER, Answer, error_of, is_nodes
from perdure.client.retries import Retries, Trouble
from perdure.errors import ConfigurationError, OutcomeUnknown, PerdureError, Unavailable

#: Where the API token is, unless it is given: the first that is set.
TOKEN_VARIABLES = ("PERDURE_API_TOKEN", "DAPR_API_TOKEN")
#: Seconds in which a connection must be there.
CONNECT = 5.0
#: Seconds without a byte after which an answer counts as lost: longer than any one long poll, and than a node tries
#: to reach the owner of an instance.
SILENCE = 75.0

_SECONDS = re.compile(r"[0-9]{1,6}", re.ASCII)


class Connection:
    """One node's HTTP API. Each event loop that uses it has connections of its own, kept open."""

    def __init__(self, server: str, *, api_token: str | None, retry_for: float) -> None:
        self.server = _checked(server)
        self._retry_for = retry_for
        token = _token() if api_token is None else api_token
        if token is not None and not (token.isascii() and token.isprintable() and token == token.strip()):
            raise ConfigurationError(
                "the API token must be printable ASCII characters without spaces around them"
            )
        self._headers = {"dapr-api-token": token} if token else {}
        self._sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}
        _all.add(self)

    def forked(self) -> None:
        """The connections are the parent's: nothing of them is closed from here, and nobody complains of that."""
        for session in self._sessions.values():
            session.detach()
        self._sessions = {}

    async def close(self) -> None:
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    async def request(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        body: bytes | None = None,
        *,
        headers: dict[str, str] | None = None,
        repeatable: bool = True,
        done: type[PerdureError] | None = None,
        until: float | None = None,
    ) -> Answer:
        """The answer, if it is a success; else the error that it is is raised. `repeatable`: to send it again does no
        harm, even if it has been executed. `done`: an error that, to a request sent again, says that it has been: no
        error then. `until`: the monotonic time after which it is not sent again."""
        end = time.monotonic() + self._retry_for
        retries = Retries(repeatable=repeatable, until=end if until is None else min(end, until))
        url = URL(f"{self.server}{path}{'?' + urlencode(query) if query else ''}", encoded=True)
        repeated = False
        while True:
            pause: float | None
            try:
                answer = await self._send(method, url, body, headers)
            except aiohttp.ClientSSLError as error:
                raise Unavailable(f"{self.server} cannot be trusted: {error}") from error
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                pause = retries.pause(Trouble.UNREACHED, time.monotonic())
                if pause is None:
                    self._unreached(error, repeated)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                repeated = True
                pause = retries.pause(Trouble.LOST, time.monotonic())
                if pause is None:
                    raise self._lost(error, changes=method != "GET") from error
            else:
                if answer.status < 300:
                    return answer
                trouble = _trouble(answer)
                pause = (
                    None
                    if trouble is None
                    else retries.pause(trouble, time.monotonic(), at_least=answer.retry_after)
                )
                if pause is None:
                    found = error_of(answer, self.server)
                    if repeated and done is not None and isinstance(found, done):
                        return answer
                    raise found
                repeated = True
            await asyncio.sleep(pause)

    async def _send(
        self, method: str, url: URL, body: bytes | None, headers: dict[str, str] | None
    ) -> Answer:
        async with self._session().request(
            method,
            url,
            data=None if body is None else io.BytesIO(body),
            headers={**(headers or {}), **_trace()},
            allow_redirects=False,
        ) as answer:
            after = answer.headers.get("Retry-After", "")
            return Answer(
                status=answer.status,
                body=await answer.read(),
                error=answer.headers.get(ERROR_HEADER, ""),
                retry_after=float(after) if _SECONDS.fullmatch(after) else 0.0,
            )

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            for ended in [one for one in list(self._sessions) if one.is_closed()]:
                self._sessions.pop(ended, None)
            session = self._sessions[loop] = aiohttp.ClientSession(
                headers={**self._headers, "Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE),
                # As many long polls as anybody wants.
                connector=_Connector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return session

    def _unreached(self, error: Exception, repeated: bool) -> NoReturn:
        reason = getattr(getattr(error, "os_error", None), "strerror", None) or error
        said = f"no node answers at {self.server} ({reason})"
        if repeated:
            raise OutcomeUnknown(
                f"{said}; before, the connection was lost while the request was under way"
            ) from error
        raise Unavailable(f"{said}: is one running there?") from error

    def _lost(self, error: Exception, *, changes: bool) -> PerdureError:
        reason = (
            f"no answer within {SILENCE:g} s"
            if isinstance(error, TimeoutError)
            else str(error) or type(error).__name__
        )
        if changes:
            return OutcomeUnknown(
                f"the connection to {self.server} was lost ({reason}): the request may or may not have been executed"
            )
        return Unavailable(f"{self.server} gave no answer: {reason}")


class _Connector(aiohttp.TCPConnector):
    """Complains only in the process that it was made in when it was not closed."""

    def __init__(self, *, limit: int) -> None:
        self._process = os.getpid()
        super().__init__(limit=limit)

    def __del__(self, *rest: Any) -> None:
        if self._process == os.getpid():
            super().__del__(*rest)


_all: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork() -> None:
    for connection in list(_all):
        connection.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _trouble(answer: Answer) -> Trouble | None:
    """None: the answer is what it is, however often one asks."""
    if answer.status == 503:
        return Trouble.BUSY
    if answer.status in (502, 504) and not is_nodes(answer):
        return Trouble.LOST  # A proxy's: it lost the node.
    return None


def _checked(server: str) -> str:
    parts = urlsplit(server)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ConfigurationError(
            "the address of a node is a URL such as http://localhost:3500, without a user or password"
        )
    if parts.query or parts.fragment:
        raise ConfigurationError(f"{server!r} is not the address of a node: it must end after the path")
    try:
        _ = parts.port
    except ValueError:
        raise ConfigurationError(f"{server!r} has no valid port") from None
    return server.rstrip("/")


def _token() -> str | None:
    return next((os.environ[name] for name in TOKEN_VARIABLES if os.environ.get(name)), None)


def _trace() -> dict[str, str]:
    """The headers of the current span, where the program uses OpenTelemetry: what is started is part of its trace."""
    found: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry import propagate

        propagate.inject(found)
    return found
