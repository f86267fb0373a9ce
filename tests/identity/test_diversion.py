"""Diverted calls: a chain from the number that was called to the one that is, in rows of any order."""

from dataclasses import replace
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.claims import Claims
from agent.identity.diversion import MAX_CHAIN, find_chain
from agent.identity.model import Failure
from tests.identity.tokens import CALL, CALLED, CALLING, IAT, OTHER_KEY, div, judged, rcd, shaken, verifier

SECOND = "13035550142"
THIRD = "13035550143"
DIVERTED = replace(CALL, called=SECOND)
TWICE = replace(CALL, called=THIRD)


def test_diverted_call_is_verified_by_its_chain() -> None:
    found = judged(shaken(), div(CALLED, SECOND), call=DIVERTED)
    assert found.valid
    assert found.attestation == "B"
    assert [check.failure for check in found.rows] == [None, None]


def test_rows_of_a_chain_come_in_any_order() -> None:
    for values in permutations([shaken(), div(CALLED, SECOND), div(SECOND, THIRD)]):
        assert judged(*values, call=TWICE).valid


def test_outermost_dest_is_compared_with_the_request_uri_not_with_to() -> None:
    found = judged(shaken(), div(CALLED, SECOND), call=replace(CALL, called=THIRD, to=CALLED))
    assert found.failure is Failure.MISMATCH
    assert found.why == f"no chain of diversions leads to {THIRD}"


def test_to_counts_where_the_request_uri_holds_no_number() -> None:
    assert judged(shaken(), div(CALLED, SECOND), call=replace(CALL, called="", to=SECOND)).valid


def test_original_that_names_the_request_uri_needs_no_chain() -> None:
    assert judged(shaken(), div("13035550101", "13035550102")).valid


def test_chain_with_a_gap_is_a_mismatch() -> None:
    assert judged(shaken(), div("13035550101", SECOND), call=DIVERTED).failure is Failure.MISMATCH


def test_every_token_of_a_chain_has_the_same_caller() -> None:
    other = div(CALLED, SECOND, orig={"tn": "12015550199"})
    found = judged(shaken(), other, call=DIVERTED)
    assert found.failure is Failure.MISMATCH
    assert "diversion: orig is 12015550199" in found.why


@pytest.mark.parametrize(
    ("row", "failure", "why"),
    [
        (div(CALLED, SECOND, key=OTHER_KEY), Failure.INVALID, "diversion: the signature is not that of"),
        (div(CALLED, SECOND, IAT - 4 * 3600), Failure.STALE, "diversion: iat is"),
        (div(CALLED, SECOND, div={"tn": ["x"]}), Failure.INVALID, "diversion: PASSporT payload: div.tn"),
        (b"junk;ppt=div", Failure.INVALID, "diversion: no alg"),
    ],
)
def test_chain_that_breaks_at_a_bad_token_blames_it(row: bytes, failure: Failure, why: str) -> None:
    found = judged(shaken(), row, call=DIVERTED)
    assert found.failure is failure
    assert why in found.why


def test_original_may_be_hours_old_if_the_last_diversion_is_fresh() -> None:
    old = shaken(iat=IAT - 3600)
    assert judged(old, div(CALLED, SECOND), call=DIVERTED).valid
    assert judged(old, div(CALLED, SECOND, IAT - 1800), div(SECOND, THIRD), call=TWICE).valid
    assert judged(old).failure is Failure.STALE
    assert judged(shaken(iat=IAT - 4 * 3600), div(CALLED, SECOND), call=DIVERTED).failure is Failure.STALE


def test_chain_of_which_the_last_diversion_is_old_is_stale() -> None:
    found = judged(shaken(iat=IAT - 100), div(CALLED, SECOND, IAT - 100), call=DIVERTED)
    assert found.failure is Failure.STALE
    assert found.why.startswith("iat of the last diversion is 105 s old")


def test_diversion_of_another_call_makes_no_old_token_fresh() -> None:
    found = judged(shaken(iat=IAT - 600), div("13035550101", "13035550102"))
    assert (found.failure, found.why) == (Failure.STALE, "iat is 605 s old, more than 60 s")


def test_loop_of_diversions_ends() -> None:
    rows = [shaken(), div(CALLED, SECOND), div(SECOND, CALLED), div(SECOND, SECOND)]
    assert judged(*rows, call=TWICE).failure is Failure.MISMATCH
    assert judged(*rows, call=DIVERTED).valid


def test_dest_with_several_numbers_continues_by_any_of_them() -> None:
    first = div(CALLED, "", dest={"tn": ["13035550101", SECOND]})
    assert judged(shaken(dest={"tn": ["13035550100", CALLED]}), first, div(SECOND, THIRD), call=TWICE).valid


def test_two_originals_share_one_diversion() -> None:
    found = judged(shaken(), shaken(attest="A"), div(CALLED, SECOND), call=DIVERTED)
    assert found.valid
    assert found.attestation == "A"


def test_same_original_comes_again_in_a_diverted_call_and_is_no_replay() -> None:
    by = verifier()
    original = shaken()
    assert judged(original, by=by).valid
    diverted = replace(DIVERTED, call_id=b"the forwarding network's own")
    forward = div(CALLED, SECOND)
    assert judged(original, forward, call=diverted, by=by).valid
    again = replace(diverted, call_id=b"somebody else's")
    assert judged(original, forward, call=again, by=by).failure is Failure.REPLAYED


def test_diversion_without_an_original_authenticates_nobody() -> None:
    found = judged(div(CALLED, SECOND), rcd(), call=DIVERTED)
    assert (found.failure, found.why) == (Failure.MISSING, "no PASSporT of type shaken, only div, rcd")


def claims(div_of: str, *dest: str) -> Claims:
    return Claims(0, CALLING, dest, div=div_of)


def test_longest_chain_and_one_beyond_it() -> None:
    numbers = [f"130355501{n:02}" for n in range(MAX_CHAIN + 2)]
    chain = [claims(a, b) for a, b in pairwise(numbers)]
    original = claims("", numbers[0])
    assert find_chain(original, chain, numbers[MAX_CHAIN]) == tuple(range(MAX_CHAIN))
    assert find_chain(original, chain, numbers[MAX_CHAIN + 1]) is None


def test_shortest_chain_is_found() -> None:
    hops = [claims("1", "2"), claims("2", "3"), claims("1", "3")]
    assert find_chain(claims("", "1"), hops, "3") == (2,)


number = st.sampled_from(["1", "2", "3", "4", ""])


@given(st.lists(st.tuples(number, st.lists(number.filter(bool), max_size=2)), max_size=16), number, number)
def test_chain_that_is_found_leads_from_the_original_to_the_callee(
    hops: list[tuple[str, list[str]]], first: str, called: str
) -> None:
    diversions = [claims(old, *new) for old, new in hops]
    original = claims("", first)
    chain = find_chain(original, diversions, called)
    if chain is not None:
        path = [original, *(diversions[i] for i in chain)]
        assert len(set(chain)) == len(chain) <= MAX_CHAIN
        assert all(after.div in before.dest for before, after in pairwise(path))
        assert called in path[-1].dest
    else:
        assert called not in reachable(original, diversions)


def reachable(original: Claims, diversions: list[Claims]) -> set[str]:
    """All numbers that a chain may end at, found the slow way."""
    reached = set(original.dest)
    while more := {n for d in diversions if d.div and d.div in reached for n in d.dest} - reached:
        reached |= more
    return reached - {""}
