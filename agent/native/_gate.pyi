# The compiled hot path; agent/gate.py says what it is given. AttemptTable and Transactions are the twins of
# agent.calls.attempts.AttemptTablePy and agent.sip.transactions.ServerTransactions.

from collections.abc import Callable
from typing import Any, final

from agent.model import Verdict
from agent.policy.policy import Policy
from agent.policy.trunks import Trunk

@final
class Sender:
    def __init__(
        self,
        *,
        trunk: Trunk,
        trunk_id: str,
        source: str,
        policy: Policy,
        country: str,
        trusted: bool,
        plain: bool,
        known: bool,
        status_line: bytes,
        rows: bytes,
        next_hop: bytes,
        keys: tuple[str | int, ...],
    ) -> None: ...
    @property
    def trunk(self) -> Trunk: ...
    @property
    def source(self) -> str: ...
    @property
    def policy(self) -> Policy: ...

@final
class Gate:
    def __init__(
        self,
        *,
        attempts: object,
        bank: object,
        indexes: tuple[tuple[object, bool], ...],
        refuse_invalid: bool,
        watched: bytes,
        unwanted: dict[str, Any] | None,
        asks: bool,
        judged: object,
        refusal: Callable[[int, float], Verdict | None] | None,
        secret: bytes,
        sender_of: Callable[[bytes], Sender | None],
        clock: Callable[[], float],
    ) -> None: ...
    @property
    def sends_singly(self) -> bool: ...
    def serve(
        self,
        fd: int,
        most: int,
        transactions: object,
        receive: Callable[[bytes, bytes], tuple[bytes, bytes] | None],
        ask: Callable[[Any, bytes, Sender, float, int, Verdict | None], bool | tuple[bytes, bytes] | None],
        when: float,
        /,
    ) -> tuple[int, int, int, int, int, int, int, int]: ...
    @staticmethod
    def plain(data: bytes, /) -> int: ...
    def answer(
        self,
        data: bytes,
        now: float,
        tail: bytes,
        general: Callable[[bytes], bytes],
        ask: Callable[[int, Any, bytes, Sender, float, int, Verdict | None], bytes],
        failed: Callable[[int], bytes],
        /,
    ) -> tuple[bytes, int, int]: ...
    def take(self) -> tuple[list[tuple[bytes, Sender, float]], list[tuple[Trunk, int]]]: ...
