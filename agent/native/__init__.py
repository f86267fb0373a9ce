"""The compiled twins of the hot path, where this machine has them.

Each twin has a pure-Python reference beside the code that uses it, and one test suite that runs both.
`SBC_EDGE_PURE=1` in the environment forces Python: the way out if a compiled part is ever suspected.
"""

import os
from importlib import import_module
from types import ModuleType


def _load(name: str) -> ModuleType | None:
    if os.environ.get("SBC_EDGE_PURE") == "1":
        return None
    try:
        return import_module(f"agent.native.{name}")
    except ImportError:
        return None


hashing = _load("_hashing")
sip = _load("_sip")
numbers = _load("_numbers")
rates = _load("_rates")
answer = _load("_answer")
udp = _load("_udp")
hook = _load("_hook")
gate = _load("_gate")
identity = _load("_identity")
packet = _load("_packet")
crc32c = _load("_crc32c")
columns = _load("_columns")
