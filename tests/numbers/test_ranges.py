"""Numbers, prefixes and ranges as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import ConfigError
from agent.numbers.ranges import MAX_FOREIGN_RANGE, Piece, nanp_range, parse_numbers, parse_piece, parse_prefix

ONE = nanp_range(2015550123, 2015550123)


@pytest.mark.parametrize(
    "text",
    [
        "+12015550123",
        "12015550123",
        "2015550123",
        "201-555-0123",
        "(201) 555-0123",
        "1-201-555-0123",
        "+1 201 555 0123",
        "201.555.0123",
        "2015550123*",
        "+12015550123*",
        " 2015550123 ",
        "2015550123-2015550123",
    ],
)
def test_every_form_of_one_number(text: str) -> None:
    assert parse_piece(text) == ONE


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("201*", 2010000000, 2019999999),
        ("+1201*", 2010000000, 2019999999),
        ("1201*", 2010000000, 2019999999),
        ("201555*", 2015550000, 2015559999),
        ("201-555*", 2015550000, 2015559999),
        ("2015550*", 2015550000, 2015550999),
        ("+12015550*", 2015550000, 2015550999),
        ("2015550100-2015550199", 2015550100, 2015550199),
        ("+12015550100-+12015550199", 2015550100, 2015550199),
        ("+12015550100-2015550199", 2015550100, 2015550199),
        ("201-555-0100 - 201-555-0199", 2015550100, 2015550199),
        ("2015550100..2015550199", 2015550100, 2015550199),
        ("2015550100 to 2015550199", 2015550100, 2015550199),
    ],
)
def test_prefix_or_range_is_all_its_numbers(text: str, first: int, last: int) -> None:
    assert parse_piece(text) == nanp_range(first, last)


def test_plus_without_1_is_another_country_however_many_digits() -> None:
    assert parse_piece("+2015550123") == Piece(2015550123, 2015550123)
    assert not parse_piece("+2015550123").is_nanp


def test_foreign_number_and_short_foreign_range() -> None:
    assert parse_piece("+44 20 7946 0123") == Piece(442079460123, 442079460123)
    piece = parse_piece("+442079460100-+442079460199")
    assert (piece, piece.is_nanp, piece.size) == (Piece(442079460100, 442079460199), False, 100)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("*", "3, 6, 7 or 10 digits"),
        ("20*", "3, 6, 7 or 10 digits"),
        ("2015*", "3, 6, 7 or 10 digits"),
        ("20155501*", "3, 6, 7 or 10 digits"),
        ("101*", "3, 6, 7 or 10 digits"),
        ("+44*", "3, 6, 7 or 10 digits"),
        ("201-555", "neither ten digits"),
        ("5550123", "neither ten digits"),
        ("911", "neither ten digits"),
        ("442079460123", "neither ten digits"),
        ("+1201555012", "neither ten digits"),
        ("+120155501234", "neither ten digits"),
        ("+2015550123*", "3, 6, 7 or 10 digits"),
        ("++12015550123", "neither ten digits"),
        ("+0442079460123", "neither ten digits"),
        ("2015550199-2015550100", "ends before it starts"),
        ("+442079460100-2015550199", "ends before it starts"),
        ("+12015550199-+442079460100", "different countries"),
        ("+442000000000-+442079460199", "may hold 10000 numbers"),
        ("2015550100-0199", "neither ten digits"),
        ("2015550100-2015550199-2015550299", "neither ten digits"),
        ("alice", "digits 0-9"),
        ("2015550123;x", "digits 0-9"),
        ("٢٠١٥٥٥٠١٢٣", "digits 0-9"),
        ("２０１５５５０１２３", "digits 0-9"),
        ("201555012²", "digits 0-9"),
        ("2015550123\n2015550124", "digits 0-9"),
        ("2" * 65, "longer than 64"),
    ],
)
def test_text_that_is_no_number_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_piece(text)


def test_foreign_range_is_bounded_at_the_named_number() -> None:
    first = 442079000000
    assert parse_piece(f"+{first}-+{first + MAX_FOREIGN_RANGE - 1}").size == MAX_FOREIGN_RANGE
    with pytest.raises(ValueError, match="may hold"):
        parse_piece(f"+{first}-+{first + MAX_FOREIGN_RANGE}")


def test_error_names_the_field_and_the_text() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_numbers(["2015550123", "20155"], "customers[2].numbers")
    assert caught.value.field == "customers[2].numbers[1]"
    assert caught.value.reason.startswith("'20155': neither ten digits")


@given(st.lists(st.integers(0, 10**10 - 1)))
def test_numbers_are_read_in_order(numbers: list[int]) -> None:
    assert parse_numbers([f"{n:010d}" for n in numbers], "x") == [nanp_range(n, n) for n in numbers]


@given(st.text(max_size=30))
def test_no_text_raises_anything_but_value_error(text: str) -> None:
    for parse in (parse_piece, parse_prefix):
        try:
            piece = parse(text)
        except ValueError:
            continue
        assert piece.first <= piece.last


@given(st.integers(0, 10**10 - 1), st.integers(0, 10**10 - 1))
def test_piece_reads_back_from_its_text(one: int, another: int) -> None:
    piece = nanp_range(min(one, another), max(one, another))
    assert parse_piece(str(piece)) == piece
