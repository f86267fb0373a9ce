"""What became of Identity rows and of refusals on their way through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.calls.transit import Transit, compare_answers, compare_identity, read_answer, read_identity
from tests.fakes.calls import invite, response

A = b"eyJhIjoxfQ.eyJiIjoyfQ.c2ln;info=<https://cert.example.net/a.pem>;alg=ES256;ppt=shaken"
B = b'eyJkIjoxfQ.eyJlIjoyfQ.c2ln;info=<https://cert.example.net/b,c.pem>;ppt="div"'
C = b"eyJmIjoxfQ.eyJnIjoyfQ.c2ln;info=<https://cert.example.net/d.pem>"
REFOLDED_A = A.replace(b";alg", b"\r\n ;alg")


def transit(before: list[bytes], after: list[bytes]) -> Transit:
    return compare_identity(read_identity(before), read_identity(after))


@pytest.mark.parametrize("rows", [[], [A], [A, B, C], [A, A], [b""], [b"\xff\x00, junk"]])
def test_the_same_rows_are_intact(rows: list[bytes]) -> None:
    result = transit(rows, rows)
    assert result.intact
    assert (result.kept, result.altered, result.stripped, result.added) == (len(rows), 0, 0, 0)
    assert not result.reordered


def test_a_row_that_is_gone_is_stripped() -> None:
    result = transit([A, B], [B])
    assert (result.kept, result.stripped, result.intact) == (1, 1, False)
    assert result.words() == "1 of 2 Identity rows kept, 1 stripped"


def test_a_row_of_two_that_are_alike_is_missed() -> None:
    assert transit([A, A], [A]).stripped == 1


def test_other_white_space_is_refolding() -> None:
    for other in (REFOLDED_A, A.replace(b";info", b" ; info"), A + b"\t"):
        result = transit([A], [other])
        assert (result.refolded, result.changed, result.stripped, result.added) == (1, 0, 0, 0)
        assert not result.intact
    assert transit([REFOLDED_A], [REFOLDED_A]).intact


def test_another_parameter_is_a_change() -> None:
    result = transit([A], [A.replace(b"a.pem", b"z.pem")])
    assert (result.changed, result.stripped, result.added) == (1, 0, 0)


def test_rows_put_into_one_are_joined_and_one_taken_apart_is_split() -> None:
    joined = transit([A, B], [A + b", " + B])
    assert (joined.joined, joined.stripped, joined.added, joined.intact) == (2, 0, 0, False)
    split = transit([A + b"," + B], [A, B])
    assert (split.joined, split.stripped, split.added) == (1, 0, 0)


def test_another_token_is_one_stripped_and_one_added() -> None:
    result = transit([A], [C])
    assert (result.stripped, result.added, result.altered) == (1, 1, 0)


def test_a_row_that_was_added_does_not_hurt() -> None:
    result = transit([A], [C, A])
    assert result.intact
    assert (result.added, result.reordered) == (1, False)


def test_another_order_is_noted() -> None:
    result = transit([A, B, C], [C, A, B])
    assert result.intact
    assert result.reordered
    assert result.words() == "3 of 3 Identity rows kept, in another order"


def test_rows_beyond_the_bound_are_compared_as_one() -> None:
    many = [A + b";n=%d" % n for n in range(40)]
    assert transit(many, many).intact
    changed = [*many[:30], b"other", *many[31:]]
    assert transit(many, changed).stripped == 1


@given(st.lists(st.binary(max_size=60), max_size=20), st.lists(st.binary(max_size=60), max_size=20))
def test_every_row_becomes_exactly_one_thing(before: list[bytes], after: list[bytes]) -> None:
    result = transit(before, after)
    assert result.before == result.kept + result.altered + result.stripped
    assert result.intact == (result.kept == result.before)
    assert 0 <= result.added <= result.after - result.kept - result.refolded
    assert transit(before, before).intact


@given(st.permutations([A, B, C, b"x", b"y,z"]))
def test_any_order_of_the_same_rows_is_intact(after: list[bytes]) -> None:
    result = transit([A, B, C, b"x", b"y,z"], after)
    assert result.intact
    assert result.reordered == (after != [A, B, C, b"x", b"y,z"])


NOTICE = b'SIP;cause=603;text="v=analytics1;url=https://redress.example.net/";location=LN'


def refusal(start: bytes, *rows: bytes) -> bytes:
    _head, _, rest = response(invite(), 603).partition(b"\r\n")
    return b"\r\n".join([b"SIP/2.0 " + start, *rows, rest])


def test_a_refusal_that_arrives_as_it_was_sent_lost_nothing() -> None:
    came = read_answer(refusal(b"603 Network Blocked", b"Reason: " + NOTICE))
    went = read_answer(refusal(b"603 Network Blocked", b"Reason: Q.850;cause=21", b"reason :  " + NOTICE))
    assert came.notice
    assert str(came) == "603 Network Blocked (603+)"
    assert compare_answers(came, went) == ()


@pytest.mark.parametrize(
    ("went", "lost"),
    [
        (refusal(b"603 Decline", b"Reason: " + NOTICE), ("phrase",)),
        (refusal(b"603 Network Blocked"), ("Reason",)),
        (refusal(b"603 Network Blocked", b"Reason: " + NOTICE.replace(b"LN", b"TN")), ("Reason",)),
        (refusal(b"480 Unavailable"), ("status", "phrase", "Reason")),
    ],
)
def test_what_a_refusal_loses_is_named(went: bytes, lost: tuple[str, ...]) -> None:
    came = read_answer(refusal(b"603 Network Blocked", b"Reason: " + NOTICE))
    assert compare_answers(came, read_answer(went)) == lost


def test_the_card_of_a_608_counts() -> None:
    card = b"Call-Info: <https://card.example.net/>;purpose=jwscard"
    came = read_answer(refusal(b"608 Rejected", card))
    assert compare_answers(came, read_answer(refusal(b"608 Rejected"))) == ("Call-Info",)
    assert compare_answers(came, read_answer(refusal(b"608 Rejected", card))) == ()
    other = read_answer(refusal(b"603 Decline", card))
    assert compare_answers(other, read_answer(refusal(b"603 Decline"))) == ()
