"""JWTClaimConstraints and EnhancedJWTClaimConstraints, as RFC 8226 and RFC 9118 write them."""

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.constraints import ClaimConstraints, read_constraints
from agent.identity.der import DerError

# The extension in the example certificate of RFC 9118 6.
RFC9118 = base64.b64decode("MECgDjAMFgpjb25maWRlbmNloSAwHjAcFgpjb25maWRlbmNlMA4MBGhpZ2gMBm1lZGl1baIMMAoWCHByaW9yaXR5")
MEANING = ClaimConstraints(("confidence",), (("confidence", ("high", "medium")),), ("priority",))

names = st.lists(st.text(st.characters(max_codepoint=0x7F), min_size=1, max_size=8), max_size=3).map(tuple)
values = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3).map(tuple)
constraints = st.builds(
    ClaimConstraints,
    names,
    st.lists(st.tuples(st.text(st.characters(max_codepoint=0x7F), min_size=1), values), max_size=3).map(tuple),
    names,
).filter(bool)


def test_example_of_the_rfc_is_read_and_written() -> None:
    assert read_constraints(RFC9118, enhanced=True) == MEANING
    assert MEANING.encode() == RFC9118


def test_plain_form_excludes_nothing() -> None:
    with pytest.raises(DerError, match="part of tag 0xa2"):
        read_constraints(RFC9118, enhanced=False)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("3000", "constrains nothing"),
        ("3004a0023000", "list of no claims"),
        ("3004a1023000", "list of no claims"),
        ("3006a00430021600", "no characters"),
        ("3007a00530031601ff", "text that is none"),
        ("3007a00530030c0161", "in place of 0x16"),
        ("300ba109300730051601613000", "without values"),
        ("3008a106300430020c00", "without values"),
        ("300ea2053003160161a0053003160161", "twice or out of order"),
        ("300ea0053003160161a0053003160161", "twice or out of order"),
        ("3004a3023000", "part of tag 0xa3"),
    ],
)
def test_what_constrains_nothing_is_refused(value: str, reason: str) -> None:
    with pytest.raises(DerError, match=reason):
        read_constraints(bytes.fromhex(value), enhanced=True)


def test_constraints_of_two_certificates_both_hold() -> None:
    both = MEANING.and_also(ClaimConstraints(("attest",), (("confidence", ("low",)),)))
    assert both.mandatory == ("confidence", "attest")
    assert both.permitted == (("confidence", ("high", "medium")), ("confidence", ("low",)))


@given(constraints)
def test_constraints_come_back(written: ClaimConstraints) -> None:
    assert read_constraints(written.encode(), enhanced=True) == written


@given(st.binary(max_size=120), st.booleans())
def test_arbitrary_bytes_are_read_or_refused(value: bytes, enhanced: bool) -> None:
    with contextlib.suppress(DerError):
        assert read_constraints(value, enhanced=enhanced)


@given(st.integers(0, len(RFC9118) - 1), st.integers(1, 255))
def test_changed_bytes_are_read_or_refused(place: int, flip: int) -> None:
    value = bytearray(RFC9118)
    value[place] ^= flip
    with contextlib.suppress(DerError):
        read_constraints(bytes(value), enhanced=True)
