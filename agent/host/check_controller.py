"""Checks of the link to a controller, where agent.toml has one: enrolled, certificate not about to end, reachable."""

import socket
from collections.abc import Iterator
from typing import Final

from agent.config import Config
from agent.control.credentials import CredentialFiles
from agent.control.errors import ControllerError
from agent.control.settings import check_address
from agent.host.finding import Finding, fault, ok, warning
from agent.records.record import rfc3339

CONNECT_SECONDS: Final = 3.0
"""For name and connection: what a person waits for gladly."""


def controller(config: Config, when: float) -> Iterator[Finding]:
    """Nothing of it stops screening, so that what is not reached is a warning."""
    if config.controller is None:
        return
    yield from _enrolled(config, when)
    host, port = check_address(config.controller.address, "controller.address")
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as error:
        yield warning(
            "controller",
            f"{config.controller.address}: {error.strerror or error}",
            "look at name, route and firewall; the agent goes on by its last policy",
        )
    else:
        yield ok("controller", f"{config.controller.address} takes connections")


def _enrolled(config: Config, when: float) -> Iterator[Finding]:
    assert config.controller is not None
    try:
        credentials = CredentialFiles(config.controller.directory).load()
    except (OSError, ControllerError) as error:
        yield fault("controller", f"{config.controller.directory}: {error}", "run it as root, or enrol again")
        return
    enrol = "sbc-agent enroll --controller HOST:7444 --token-file FILE --authority-sha256 HEX"
    if credentials is None:
        yield fault("controller", "this agent is not enrolled", enrol)
    elif credentials.not_after < when:
        yield fault("controller", f"its certificate ended at {rfc3339(credentials.not_after)}", enrol)
    else:
        yield ok("controller", f"enrolled as {credentials.agent_id} until {rfc3339(credentials.not_after)}")
