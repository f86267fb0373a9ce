"""How long an answer may be used (RFC 9111, ATIS-1000074)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.stir.caching import LEAST_SECONDS, Lifetime, read_lifetime

DAY = 86400.0
WHEN = 1_791_987_300.0  # Wed, 14 Oct 2026 14:15:00 GMT


def lifetime(*rows: tuple[str, str]) -> Lifetime:
    return read_lifetime([(name.encode(), value.encode()) for name, value in rows], WHEN, DAY)


def test_without_a_directive_a_certificate_is_used_for_a_day() -> None:
    assert lifetime() == Lifetime(DAY, stale=True)
    assert lifetime(("Cache-Control", "public"), ("ETag", '"1"')) == Lifetime(DAY, stale=True)


@pytest.mark.parametrize(
    ("value", "seconds", "stale"),
    [
        ("max-age=300", 300.0, True),
        ("public, max-age=300", 300.0, True),
        ("MAX-AGE=300", 300.0, True),
        ('max-age="300"', 300.0, True),
        ("max-age=300,max-age=600", 300.0, True),
        ("max-age=300, s-maxage=600", 600.0, False),
        ("s-maxage=600, max-age=300", 600.0, False),
        ("max-age=300, must-revalidate", 300.0, False),
        ("max-age=300, proxy-revalidate", 300.0, False),
        ("max-age=604800", DAY, True),
        ("max-age=99999999999999999999999999", DAY, True),
        ("max-age=0", LEAST_SECONDS, True),
        ("max-age=-1", LEAST_SECONDS, True),
        ("max-age=soon", LEAST_SECONDS, True),
        ("max-age", LEAST_SECONDS, True),
        ("no-store", LEAST_SECONDS, False),
        ("no-cache, max-age=300", LEAST_SECONDS, False),
        ('private="x, max-age=5", max-age=300', 300.0, True),
    ],
)
def test_cache_control_is_honoured_within_bounds(value: str, seconds: float, stale: bool) -> None:
    assert lifetime(("Cache-Control", value)) == Lifetime(seconds, stale)


def test_several_rows_count_as_one() -> None:
    assert lifetime(("cache-control", "public"), ("Cache-Control", "max-age=300")).seconds == 300


def test_expires_counts_from_the_date_of_the_server() -> None:
    late = ("Expires", "Wed, 14 Oct 2026 15:15:00 GMT")
    assert lifetime(late).seconds == 3600
    assert lifetime(late, ("Date", "Wed, 14 Oct 2026 15:00:00 GMT")).seconds == 900
    assert lifetime(late, ("Date", "yesterday")).seconds == 3600
    assert lifetime(late, ("Cache-Control", "max-age=60")).seconds == 60


@pytest.mark.parametrize(
    "value", ["0", "-1", "", "Wed, 14 Oct 2026 14:00:00 GMT", "Wed, 99 Oct 2026 14:00:00 GMT", "\xff"]
)
def test_expires_in_the_past_or_no_date_is_stale(value: str) -> None:
    assert lifetime(("Expires", value)).seconds == LEAST_SECONDS


def test_age_in_other_caches_counts() -> None:
    assert lifetime(("Cache-Control", "max-age=300"), ("Age", "100")).seconds == 200
    assert lifetime(("Cache-Control", "max-age=300"), ("Age", "301")).seconds == LEAST_SECONDS
    assert lifetime(("Cache-Control", "max-age=300"), ("Age", "old")).seconds == 300
    assert lifetime(("Age", "100")).seconds == DAY


NAMES = st.sampled_from([b"Cache-Control", b"Expires", b"Date", b"Age"])
PIECES = st.lists(
    st.sampled_from(
        [b"max-age=", b"s-maxage", b'"', b",", b"1", b"9" * 30, b"no-store", b"=", b" ", b"GMT", b"Wed, 14 Oct "]
    )
)


@given(st.lists(st.tuples(NAMES | st.binary(), st.binary() | PIECES.map(b"".join))))
def test_any_headers_give_a_lifetime_within_bounds(rows: list[tuple[bytes, bytes]]) -> None:
    assert LEAST_SECONDS <= read_lifetime(rows, WHEN, DAY).seconds <= DAY
