# The compiled twin of the plain part of agent/ingress/hook/wire.py.

from agent.screening import Observation

def read_requests(
    data: bytes, now: float, observation: type[Observation], /
) -> list[tuple[int, Observation | None, bool, str]] | None: ...
def allowed(number: int, identity: tuple[bytes, ...], tail: bytes, /) -> bytes: ...
