"""The ATIS-1000082 API as a part of the daemon. Knows when it starts and how it is; nothing is loaded before.

uvicorn's protocol and starlette's requests run in the daemon's event loop; neither installs a signal handler, starts
a thread or writes a log.
"""

import ssl
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from agent.identity.model import Verification, Verstat
from agent.model import ConfigError
from agent.settings import host_and_port
from agent.stir.api.access import Access, read_tokens
from agent.stir.api.documents import verstat_of
from agent.stir.api.ports import Signing, Verifying
from agent.stir.api.settings import StirApiSettings
from agent.stir.api.tally import Tally
from agent.tls import server_context

if TYPE_CHECKING:
    from agent.stir.api.app import Api
    from agent.stir.api.listener import Listener


class StirApiServer:
    """The API at one address. `verifying` and `signing` do the work; without `signing` there is no such resource.

    `verstat` says what a verification amounts to, by the policy in force; `on_failure` hears of faults of ours.
    """

    name: Final = "stir_api"

    def __init__(
        self,
        settings: StirApiSettings,
        verifying: Verifying,
        signing: Signing | None = None,
        verstat: Callable[[Verification], Verstat] = verstat_of,
        on_failure: Callable[[Exception], None] = lambda _error: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.address = host_and_port(settings.listen, "stir_api.listen")
        self._settings = settings
        self._verifying = verifying
        self._signing = signing
        self._verstat = verstat
        self._on_failure = on_failure
        self._clock = clock
        self._wall = wall
        self._api: Api | None = None
        self._listener: Listener | None = None
        self._stopping = False
        self._tally = Tally()

    async def start(self) -> None:
        """Listen. Raises OSError, or ConfigError that names the setting; then nothing is left behind."""
        from agent.stir.api.app import Api  # noqa: PLC0415  (24 MB that an agent without this API need not have)
        from agent.stir.api.listener import Listener  # noqa: PLC0415

        settings = self._settings
        tokens = read_tokens(settings.token_file) if settings.token_file else ()
        api = Api(
            settings,
            Access(settings, tokens),
            self._verifying,
            self._signing,
            self._verstat,
            self._on_failure,
            self._wall,
            self._tally,
        )
        listener = Listener(api, settings, _context(settings), self._clock, self._tally)
        self.address = listener.start(*self.address)
        self._api, self._listener = api, listener

    async def stop(self, grace: float) -> None:
        """Take no new requests, answer what is asked within `grace` seconds, then close. May be called again."""
        self._stopping = True
        if self._listener is not None:
            await self._listener.stop(grace)

    def health(self) -> tuple[bool, str]:
        """Whether it listens, where, and how many ask."""
        if self._stopping or self._listener is None or self._api is None:
            return False, "stopping" if self._stopping else "not started"
        host, port = self.address
        scheme = "https" if self._settings.certificate else "http"
        where = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{self._settings.base_path}/stir/v1"
        signs = "signs and verifies" if self._signing is not None else "verifies"
        in_flight = self._api.crowd.in_flight
        return True, f"{where} {signs}; {self._listener.connections} connections, {in_flight} requests in flight"

    def counters(self) -> Mapping[str, int]:
        """Counts since the start."""
        return self._tally.counters()


def _context(settings: StirApiSettings) -> ssl.SSLContext | None:
    """TLS where there is a certificate. Raises ConfigError that names the setting."""
    if settings.certificate is None or settings.key is None:
        return None
    try:
        return server_context(settings.certificate, settings.key, settings.client_ca)
    except ConfigError as error:
        raise ConfigError(f"stir_api.{error.field}", error.reason) from None
