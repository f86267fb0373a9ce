"""What operators may have an agent do: the allow-list, who may ask for what, and what a command must look like.

Pure. The agent has an allow-list of its own; what is not on both is not done.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from controller.errors import Denied, Invalid
from controller.fleet.messages import Order
from controller.model import Peer, PeerKind, Role

COMMANDS_CAPABILITY: Final = "command.v1"
ARGUMENT_MAX: Final = 1024
REFUSED: Final = "refused"
"""Argument of a tail: refused calls only."""


@dataclass(frozen=True, slots=True)
class Kind:
    """`seconds` is how long is waited for an answer (of `tail`: how long it goes on) unless the operator says."""

    role: Role
    seconds: float
    seconds_max: float
    argument: str = ""  # what it must have; "" nothing
    choices: tuple[str, ...] = ("",)  # what it may have, where it need not have any


KINDS: Final[Mapping[str, Kind]] = {
    "status": Kind(Role.VIEWER, 10.0, 60.0),
    "explain": Kind(Role.VIEWER, 10.0, 60.0, "the Call-ID"),
    "tail": Kind(Role.VIEWER, 60.0, 3600.0, choices=("", REFUSED)),
    "drain": Kind(Role.OPERATOR, 30.0, 300.0),
    "diagnostics": Kind(Role.OPERATOR, 60.0, 300.0),
}

ANSWER_SECONDS: Final = 5.0
"""That the end of a tail has to come back."""


def order_of(word: str, argument: str, seconds: float, when: float) -> Order:
    """An order for an agent. `seconds` 0: as usual. Raises Invalid."""
    kind = KINDS.get(word)
    if kind is None:
        raise Invalid("command", f"must be one of {', '.join(KINDS)}")
    if kind.argument and not argument:
        raise Invalid("argument", f"is missing: {kind.argument}")
    if not kind.argument and argument not in kind.choices:
        known = " or ".join(f'"{choice}"' for choice in kind.choices)
        raise Invalid("argument", f"of {word} must be {known}")
    if len(argument) > ARGUMENT_MAX:
        raise Invalid("argument", f"is longer than {ARGUMENT_MAX} characters")
    if not 0 <= seconds <= kind.seconds_max:
        raise Invalid("duration", f"must be up to {kind.seconds_max:g} s")
    seconds = seconds or kind.seconds
    expires_at = when + seconds + (ANSWER_SECONDS if word == "tail" else 0.0)
    refused_only = word == "tail" and argument == REFUSED
    return Order(new_id(), word, expires_at, argument=argument, duration=seconds, refused_only=refused_only)


def replay_of(policy: bytes, window: float, seconds: float, when: float) -> Order:
    """Have an agent decide again what it recorded in the last `window` seconds, by this policy, within `seconds`."""
    return Order(new_id(), "replay", when + seconds, duration=window, policy=policy)


def upgrade_of(version: str, key: str, soak: float, seconds: float, when: float) -> Order:
    """Have an agent ask its host for another version of itself; it answers within `seconds` that it did."""
    return Order(new_id(), "upgrade", when + seconds, argument=f"{version} {key}", duration=soak)


def new_id() -> str:
    """Of a command: never given twice."""
    return secrets.token_hex(12)


def check_role(peer: Peer, word: str) -> None:
    """Raises Denied. A controller asks for an operator whose role it has checked."""
    kind = KINDS.get(word)
    if kind is None or peer.kind is PeerKind.CONTROLLER:
        return
    if peer.role is None or peer.role < kind.role:
        raise Denied(f"{word} needs the role {kind.role.word}")
