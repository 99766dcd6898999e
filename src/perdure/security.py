"""How the processes of a cluster trust each other: certificates of one authority, and a token."""

from __future__ import annotations

import hmac
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from perdure.errors import ConfigurationError

#: The environment variables that `Security.from_environment` reads, by field.
VARIABLES = {
    "ca": "PERDURE_TLS_CA",
    "cert": "PERDURE_TLS_CERT",
    "key": "PERDURE_TLS_KEY",
    "token": "PERDURE_CLUSTER_TOKEN",
}
#: What a certificate's URI of an app begins with; `<namespace>/<app id>` follows.
APP_URI = "perdure://"

_BEARER = "Bearer "


class Security(msgspec.Struct, frozen=True, kw_only=True):
    """With `ca`, `cert` and `key` (PEM files) all links are mutual TLS: each end shows a certificate signed by `ca`,
    or is refused. With `token` whoever dials must know it. Neither: whoever reaches the port is trusted."""

    #: Paths; empty: none.
    ca: str = ""
    cert: str = ""
    key: str = ""
    #: Whether the name or address that is dialled must be in the certificate of whoever answers.
    check_name: bool = True
    #: The secret of the cluster; empty: none.
    token: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **given: Any) -> Security:
        """What is given, and for the rest the variables of `VARIABLES`; checked."""
        environment = os.environ if environment is None else environment
        found = {field: environment.get(name, "") for field, name in VARIABLES.items()}
        security = cls(**{**found, **{field: value for field, value in given.items() if value is not None}})
        security.check()
        return security

    def __repr__(self) -> str:
        # Settings get logged, tokens must not.
        token = "…" if self.token else ""
        return (
            f"Security(ca={self.ca!r}, cert={self.cert!r}, key={self.key!r}, check_name={self.check_name}, "
            f"token={token!r})"
        )

    @property
    def tls(self) -> bool:
        return bool(self.ca or self.cert or self.key)

    def check(self) -> None:
        """`ConfigurationError` that names what is missing, unreadable or does not fit together."""
        self.server_context()
        self.client_context()
        if self.token and (not self.token.isascii() or not self.token.isprintable() or " " in self.token):
            raise ConfigurationError("the cluster token must be of printable ASCII characters without spaces")

    def server_context(self) -> ssl.SSLContext | None:
        """For whoever listens; None without TLS. `ConfigurationError` as `check`."""
        if not self.tls:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        return self._load(context)

    def client_context(self) -> ssl.SSLContext | None:
        """For whoever dials; None without TLS. `ConfigurationError` as `check`."""
        if not self.tls:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = self.check_name
        return self._load(context)

    def renew(self, context: ssl.SSLContext) -> None:
        """Has a context of `server_context` use what the files hold now, for the links to come. `ConfigurationError`
        when they cannot be used: then it stays as it was."""
        self.server_context()
        self._load(context)

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for field in ("ca", "cert", "key"):
            self._check_readable(field, getattr(self, field))
        try:
            context.load_verify_locations(self.ca)
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"{self.ca} ({VARIABLES['ca']}) is no PEM certificate: {error}"
            ) from error
        try:
            # A key under a password is refused: asking for it would wait for a terminal.
            context.load_cert_chain(self.cert, self.key, password=_no_password)
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"{self.cert} and {self.key} are no PEM certificate and its key: {error}"
            ) from error
        return context

    def _check_readable(self, field: str, path: str) -> None:
        if not path:
            given = ", ".join(name for name in ("ca", "cert", "key") if getattr(self, name))
            raise ConfigurationError(
                f"TLS needs a CA, a certificate and its key: {field} ({VARIABLES[field]}) is missing beside {given}"
            )
        try:
            with Path(path).open("rb") as file:
                file.read(1)
        except OSError as error:
            reason = error.strerror or error
            raise ConfigurationError(f"{path} ({VARIABLES[field]}) cannot be read: {reason}") from error

    # --- the token ---------------------------------------------------------------------------------------------------

    def headers(self) -> dict[str, str]:
        """What whoever dials adds to its request."""
        return {"Authorization": _BEARER + self.token} if self.token else {}

    def admits(self, authorization: str | None) -> bool:
        """Whether a request with this `Authorization` header knows the token; True where there is none."""
        if not self.token:
            return True
        given = (authorization or "").removeprefix(_BEARER)
        return hmac.compare_digest(given.encode(errors="surrogateescape"), self.token.encode())


def apps_of(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """The apps that the certificate's owner may speak for, as `<namespace>/<app id>`: its URIs `perdure://…`, as
    `SSLSocket.getpeercert` gives them. Empty: any app."""
    names = (certificate or {}).get("subjectAltName", ())
    return frozenset(
        value.removeprefix(APP_URI) for kind, value in names if kind == "URI" and value.startswith(APP_URI)
    )


def _no_password() -> str:
    raise ConfigurationError("the key (PERDURE_TLS_KEY) is under a password; use one without")
