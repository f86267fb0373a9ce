"""Settings of the ATIS-1000082 API, as the section [stir_api] of agent.toml holds them. Open nothing."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final

from agent.ingress.hook.settings import CLIENT_KINDS
from agent.model import ConfigError
from agent.settings import Range, host_and_port

_BASE_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)*", re.ASCII)
_INSTANCE: Final = re.compile(r"[!-~]{0,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class StirApiSettings:
    """[stir_api]: POST {base_path}/stir/v1/signing and {base_path}/stir/v1/verification.

    Who may ask: clients with a certificate of `client_ca` that names one of `allowed_clients`
    ("URI:spiffe://example.net/sbc1", "DNS:sbc1.example.net", "CN:sbc1"), or who knows a token of `token_file`; both are
    needed where both are given. Beyond this host one of them must be given, and always TLS: a token, and the numbers
    of callers, are not for everybody on the way. On a loopback address neither is needed: whoever can run a program
    on this host may then have calls signed.
    """

    listen: str = "127.0.0.1:8082"
    base_path: str = ""
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    allowed_clients: tuple[str, ...] = ()
    token_file: Path | None = None
    # Sent as X-InstanceID with every answer, so that an SBC with several servers can say which one it was.
    instance: str = ""
    # How long a verification may take, certificate fetched, before it is No-TN-Validation. SBCs give up after 2 s.
    answer_seconds: Annotated[float, Range(0.01, 30)] = 1.0
    # A whole request, from its first byte to the last of its answer; also how long TLS may take to begin.
    request_seconds: Annotated[float, Range(0.05, 60)] = 5.0
    # How long a connection may be silent between requests; SBCs keep theirs open.
    idle_seconds: Annotated[float, Range(0.05, 3600)] = 120.0
    max_connections: Annotated[int, Range(1, 4096)] = 256
    # Requests per client at one time; each waits for a certificate at worst.
    max_in_flight: Annotated[int, Range(1, 4096)] = 128
    # Bytes of a request's body: one Identity has some 700, and sixteen of them are a diversion chain of the longest.
    max_body: Annotated[int, Range(1024, 1 << 20)] = 1 << 16

    def __post_init__(self) -> None:
        host, _ = host_and_port(self.listen, "listen")
        if not _BASE_PATH.fullmatch(self.base_path):
            raise ConfigError("base_path", 'must be "" or begin with "/" and not end with it: "/StirShaken"')
        if not _INSTANCE.fullmatch(self.instance):
            raise ConfigError("instance", "must be at most 128 printable ASCII characters, without spaces")
        for n, client in enumerate(self.allowed_clients):
            if not client.startswith(CLIENT_KINDS) or client in CLIENT_KINDS:
                raise ConfigError(f"allowed_clients[{n}]", f'"{client}" must begin with {", ".join(CLIENT_KINDS)}')
        self._check_together()
        if not ip_address(host).is_loopback:
            self._check_beyond_loopback()

    def _check_together(self) -> None:
        """What makes sense only with something else."""
        for field, needed in (
            ("key", "certificate"),
            ("certificate", "key"),
            ("client_ca", "certificate"),
            ("client_ca", "allowed_clients"),
            ("allowed_clients", "client_ca"),
        ):
            if getattr(self, field) and not getattr(self, needed):
                raise ConfigError(needed, f"is needed with {field}")
        if self.answer_seconds > self.request_seconds:
            raise ConfigError("answer_seconds", "must not be more than request_seconds")

    def _check_beyond_loopback(self) -> None:
        if not self.client_ca and not self.token_file:
            reason = f"{self.listen} is open to other hosts: client_ca and allowed_clients, or token_file, is needed"
            raise ConfigError("client_ca", reason)
        if not self.certificate:
            raise ConfigError("certificate", f"is needed: {self.listen} is open to other hosts")
