"""Number sets and do-not-originate lists of the sizes that carriers have, made up and the same in every run."""

from collections.abc import Iterable
from pathlib import Path
from random import Random

from agent.files import replace_file
from agent.numbers.dno import Assertion, DnoCategory
from agent.numbers.dno_build import DnoBuilder
from agent.numbers.listfile import encode
from agent.numbers.ranges import nanp_range
from agent.numbers.sets import NumberSet

# Thousands-blocks nobody holds, in the structured way that they come: whole exchanges of every area code.
VACANT = [
    (npa * 10_000 + nxx * 10, npa * 10_000 + nxx * 10 + 10) for npa in range(200, 1000) for nxx in range(700, 999, 2)
]


def exact_numbers(count: int) -> list[int]:
    """So many different ten-digit numbers, ascending."""
    random = Random(64_1200)
    return sorted(random.sample(range(2_000_000_000, 9_999_999_999), count))


def number_set(numbers: list[int]) -> NumberSet:
    """The set of these and of the vacant blocks."""
    return NumberSet.build_from_ints(numbers, VACANT)


def write_dno_list(path: Path, numbers: list[int]) -> None:
    """The compiled list of these (subscriber request) and of the vacant blocks (unallocated)."""
    builder = DnoBuilder()
    asked = builder.assertion_id(Assertion(DnoCategory.SUBSCRIBER_REQUEST, "registry", "example", 1.7e9, None))
    vacant = builder.assertion_id(Assertion(DnoCategory.UNALLOCATED, "numbering report", "example", 1.7e9, None))
    for number in numbers:
        builder.add_number(number, asked)
    for first, stop in VACANT:
        builder.add(nanp_range(first * 1000, stop * 1000 - 1), vacant)
    replace_file(path, encode(builder.finish(), generation=1, when=1.7e9, agent_version="bench"))


def write_plain_list(path: Path, numbers: Iterable[int]) -> None:
    """The compiled list of these ten-digit numbers alone."""
    builder = DnoBuilder()
    asked = builder.assertion_id(Assertion(DnoCategory.SUBSCRIBER_REQUEST, "registry", "example", 1.7e9, None))
    for number in numbers:
        builder.add_number(number, asked)
    replace_file(path, encode(builder.finish(), generation=1, when=1.7e9, agent_version="bench"))
