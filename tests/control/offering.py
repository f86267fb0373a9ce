"""Offers for tests of the state machines."""

import hashlib

from agent.control.messages import Manifest, Offer
from sbcedge.policy.v1 import policy_pb2


def an_offer(generation: int, name: str = "", soak: float = 30.0, lists: tuple[Manifest, ...] = ()) -> Offer:
    """A policy of its own name, "p8" for generation 8."""
    policy = policy_pb2.Policy(name=name or f"p{generation}").SerializeToString()
    return Offer(generation, hashlib.sha256(policy).digest(), policy, lists, soak)


def a_list(name: str = "industry", generation: int = 1, content: bytes = b"1") -> Manifest:
    """A manifest, not signed."""
    return Manifest(
        "dno", name, generation, hashlib.sha256(content).digest(), len(content), 1, None, "k1", b"", b"manifest"
    )
