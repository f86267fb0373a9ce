"""The three ways of reading one message, and what came out of each, in a form that compares."""

from collections.abc import Callable
from typing import Any, Final

from agent import native
from agent.model import ParseError, Scan
from agent.sip.message import facts, parse
from agent.sip.scan import scan_py

Read = Callable[[bytes], Scan]

FIELDS: Final = tuple(name for name, value in vars(Scan).items() if isinstance(value, property))


def full_parse(raw: bytes) -> Scan:
    """The fields of a scan, by way of the full parse."""
    return facts(parse(raw))


def outcome(read: Read, raw: bytes) -> dict[str, Any]:
    """Every field, or place, reason and offset of the refusal. Any other exception is for the test to show."""
    try:
        message = read(raw)
    except ParseError as error:
        return {"place": error.place, "reason": error.reason, "offset": error.offset}
    return {field: getattr(message, field) for field in FIELDS}


def readers() -> dict[str, Read]:
    """Whatever this machine has: the reference, the compiled twin, the full parse."""
    found: dict[str, Read] = {"python": scan_py, "full parse": full_parse}
    if native.sip is not None:
        found["native"] = native.sip.scan
    return found


def disagreement(raw: bytes) -> str:
    """The first difference between the readers, in words; "" if they agree."""
    expected = outcome(scan_py, raw)
    for name, read in readers().items():
        actual = outcome(read, raw)
        if actual.keys() != expected.keys():
            return f"{name}: {actual!r}, python: {expected!r}"
        for field, value in expected.items():
            if actual[field] != value or type(actual[field]) is not type(value):
                return f"{field}: {name} has {actual[field]!r}, python has {value!r}"
    return ""
