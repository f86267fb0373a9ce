"""The TNAuthList of RFC 8226 9: what it holds, what is none, and what lies inside what."""

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.der import DerError
from agent.identity.tnauthlist import CODE_MAX, NumberRange, TnAuthList, read_tnauthlist

CODE = bytes.fromhex("3008a006160438313848")
NUMBER = bytes.fromhex("300fa20d160b") + b"12015550123"
RANGE = bytes.fromhex("3015a1133011160b") + b"12015550000" + bytes.fromhex("020203e8")

digits = st.text("0123456789", min_size=1, max_size=15)
codes = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=CODE_MAX)


@st.composite
def ranges(draw: st.DrawFn) -> NumberRange:
    start = draw(digits)
    return NumberRange(start, draw(st.integers(1, 10 ** len(start) - int(start))))


lists = st.builds(TnAuthList, st.lists(codes, max_size=3).map(tuple), st.lists(ranges(), max_size=4).map(tuple)).filter(
    lambda held: bool(held.codes or held.numbers)
)


def test_examples_are_read() -> None:
    assert read_tnauthlist(CODE) == TnAuthList(codes=("818H",))
    assert read_tnauthlist(NUMBER) == TnAuthList(numbers=(NumberRange("12015550123"),))
    assert read_tnauthlist(RANGE) == TnAuthList(numbers=(NumberRange("12015550000", 1000),))
    assert base64.b64encode(CODE) == b"MAigBhYEODE4SA=="


@pytest.mark.parametrize("example", [CODE, NUMBER, RANGE])
def test_examples_are_written(example: bytes) -> None:
    assert read_tnauthlist(example).encode() == example


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("3000", "is empty"),
        ("30061304373535", "ends inside"),
        ("3006130437353541", "neither code, range nor number"),  # as a real authority wrote it: no [0], no IA5String
        ("300880061604363734 4a", "neither code"),  # IMPLICIT tag
        ("3004a0021600", "service provider code that is none"),
        ("3008a006160438 31380a", "service provider code that is none"),  # a line feed
        ("3008a0060c0438313848", "in place of 0x16"),  # UTF8String
        ("3009a007160438313848 00", "bytes after its end"),
        ("3008a00616043831384800", "bytes after its end"),
        ("3004a2021600", "number that is none"),
        ("3007a2051603 2b3132", "number that is none"),  # "+12"
        ("300ba109 3007 1602 3939 020101", "too few or too many"),  # count 1
        ("300ba109 3007 1602 3939 020102", "too few or too many"),  # 99 and the one after it
        ("3008a106 3004 1602 3939", "without start and count"),
        ("3080a006160438313848 0000", "indefinite"),
    ],
)
def test_what_is_no_list_is_refused(value: str, reason: str) -> None:
    with pytest.raises(DerError, match=reason):
        read_tnauthlist(bytes.fromhex(value))


def test_code_without_end_is_refused() -> None:
    with pytest.raises(DerError, match="more than 32 characters"):
        read_tnauthlist(TnAuthList(codes=("A" * 33,)).encode())


def test_range_may_have_fields_that_came_later() -> None:
    """TelephoneNumberRange ends with an extension marker."""
    assert read_tnauthlist(bytes.fromhex("300da10b3009160239300201020500")).numbers == (NumberRange("90", 2),)


@given(lists)
def test_lists_come_back(held: TnAuthList) -> None:
    assert read_tnauthlist(held.encode()) == held


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_read_or_refused(value: bytes) -> None:
    try:
        held = read_tnauthlist(value)
    except DerError:
        return
    assert held.codes or held.numbers


@given(lists, st.data())
def test_changed_bytes_are_read_or_refused(held: TnAuthList, data: st.DataObject) -> None:
    value = bytearray(held.encode())
    place = data.draw(st.integers(0, len(value) - 1))
    value[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(DerError):
        read_tnauthlist(bytes(value))


@given(lists)
def test_list_lies_inside_itself(held: TnAuthList) -> None:
    assert held.encompasses(held)


@given(ranges(), st.data())
def test_part_of_a_range_lies_inside_it(whole: NumberRange, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, whole.count - 1))
    count = data.draw(st.integers(1, whole.count - first))
    part = NumberRange(str(int(whole.start) + first).zfill(len(whole.start)), count)
    assert whole.contains(part)
    beyond = NumberRange(part.start, whole.count - first + 1)
    assert not whole.contains(beyond)


def test_other_code_lies_outside() -> None:
    ours = TnAuthList(codes=("1234",))
    assert not ours.encompasses(TnAuthList(codes=("9999",)))
    assert not TnAuthList(numbers=(NumberRange("12015550100", 100),)).encompasses(ours)


def test_numbers_lie_inside_a_code() -> None:
    """Which numbers a provider holds no certificate says; the authority that issued had to ask (RFC 9060 5)."""
    assert TnAuthList(codes=("1234",)).encompasses(TnAuthList(numbers=(NumberRange("12015550123"),)))


@pytest.mark.parametrize("number", ["0123", "12", "1230", "*67"])
def test_digits_count(number: str) -> None:
    assert not NumberRange("123", 7).contains(NumberRange(number))


def test_dialled_code_contains_itself_alone() -> None:
    assert NumberRange("*67").contains(NumberRange("*67"))
    assert not NumberRange("*67").contains(NumberRange("*68"))
