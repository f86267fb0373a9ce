"""Settings of the queue, as the section [queue] of agent.toml holds them. Open nothing."""

from dataclasses import dataclass
from typing import Annotated, Final

from agent.kernel.settings import PORTS_MAX
from agent.model import ConfigError
from agent.settings import Range
from agent.sip.transactions import CAPACITY

MARK: Final = 0x5BCED6E
"""A number that nobody else is likely to mark packets with."""


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """[queue]: INVITE requests that come by UDP to `ports` of this host wait in the kernel until the agent has decided.

    number: of the netfilter queue; no other program may use it.
    length: calls that may wait. With more, or without the agent, calls go on unscreened. It is also how long an allowed
    call may have to wait in a flood (512: 15 ms), and how many wait in vain when the agent hangs, until their callers
    send them again.
    mark: on answers of ours (SO_MARK), so that the kernel knows them; routing rules must not use it.
    transactions: refused calls whose ACK has not come, or of which a copy may still come.
    """

    ports: tuple[Annotated[int, Range(1, 65_535)], ...] = (5060,)
    number: Annotated[int, Range(0, 65_535)] = 5060
    length: Annotated[int, Range(16, 8192)] = 512
    mark: Annotated[int, Range(1, 0xFFFFFFFF)] = MARK
    transactions: Annotated[int, Range(1, 1 << 20)] = CAPACITY

    def __post_init__(self) -> None:
        if not self.ports:
            raise ConfigError("ports", "there is none to screen")
        if len(self.ports) > PORTS_MAX:
            raise ConfigError("ports", f"are more than {PORTS_MAX}")
