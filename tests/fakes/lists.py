"""A small do-not-originate list, made at a time that the test chooses."""

from agent.numbers.dno import Assertion, DnoCategory, DnoList
from agent.numbers.dno_build import DnoBuilder
from agent.numbers.listfile import encode, read_list
from agent.numbers.ranges import parse_piece

NUMBERS = ("2015550123", "2015550124")


def small_list(made_at: float) -> DnoList:
    """Two numbers, asserted for good. `made_at` is epoch seconds."""
    builder = DnoBuilder()
    assertion = builder.assertion_id(Assertion(DnoCategory.SUBSCRIBER_REQUEST, "registry", "example", made_at, None))
    for number in NUMBERS:
        builder.add(parse_piece(number), assertion)
    return read_list(memoryview(b"".join(encode(builder.finish(), 5, made_at, "test"))), "test")
