"""Lines of JSON as rows: nothing that an agent sends is lost, moves another row, or spoils the table."""

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.records.segment import Kind
from controller.archive.layout import CALLS, ROLLUPS, SCHEMAS
from controller.archive.rows import UNREADABLE, Lines
from controller.archive.tables import tables_of
from controller.archive.writing import encoded
from tests.controller.archive.lines import EPOCH, call, lines, raw, rollup, text_of
from tests.controller.stores import WHEN


def calls_of(*parts: Lines) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tables_of(parts, WHEN)[CALLS].to_pylist()
    return rows


def test_calls_become_rows_that_say_which_record_they_are() -> None:
    rows = calls_of(lines([call(1), call(2)], first=7), lines([call(3)], agent="a2", kind=Kind.REFUSED))
    assert [(r["agent"], r["sequence"], r["kind"], r["call_id"]) for r in rows] == [
        ("a1", 7, "allowed", "1@192.0.2.1"),
        ("a1", 8, "allowed", "2@192.0.2.1"),
        ("a2", 1, "refused", "3@192.0.2.1"),
    ]
    assert rows[0]["epoch"] == f"{EPOCH:016x}"
    assert rows[0]["identity"] == [{"sha256": "ab" * 32, "attestation": "A"}]
    assert rows[0]["policy_generation"] == 3
    assert all(row["rest"] is None for row in rows)


def test_rollups_have_a_table_of_their_own() -> None:
    made = tables_of([lines([rollup()], kind=Kind.ROLLUP), lines([call()], first=2)], WHEN)
    assert set(made) == {CALLS, ROLLUPS}
    (row,) = made[ROLLUPS].to_pylist()
    assert row["attempts"] == 33
    assert dict(row["trunks"])["peer"] == [("allow", 31), ("refuse", 2)]
    assert row["rest"] is None


def test_fields_of_a_later_agent_are_kept() -> None:
    rows = calls_of(lines([call(1, jitter={"ms": 3}), call(2, jitter=None, label="x")]))
    assert [json.loads(r["rest"]) for r in rows] == [{"jitter": {"ms": 3}}, {"label": "x"}]
    assert [r["call_id"] for r in rows] == ["1@192.0.2.1", "2@192.0.2.1"]


def test_a_field_without_a_column_is_kept_wherever_it_is() -> None:
    values = [call(n) for n in range(6)]
    values[2]["later"] = 1
    values[4]["identity"] = [{"sha256": "x", "attestation": "A", "later": 2}]
    rows = calls_of(lines(values), lines([call(7)], agent="a2"))
    assert [r["rest"] and json.loads(r["rest"]) for r in rows] == [
        None,
        None,
        {"later": 1},
        None,
        {"identity": values[4]["identity"]},
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("calling", 12015550123),
        ("policy_generation", -1),
        ("policy_generation", 1 << 70),
        ("policy_generation", 1.5),
        ("policy_generation", True),
        ("asserted", "sip:x@example.com"),
        ("asserted", [1]),
        ("identity", [{"sha256": "x", "surprise": 1}]),
        ("time", "yesterday"),
        ("time", "9999-12-31T23:59:59-05:00"),
        ("time", "0001-01-01T00:00:00+05:00"),
        ("verification", {"failure": 3}),
    ],
)
def test_a_value_of_another_type_is_kept_beside_its_column(field: str, value: Any) -> None:
    good, bad = calls_of(lines([call(1), call(2, **{field: value})]))
    assert json.loads(bad["rest"]) == {field: value}
    assert good["rest"] is None
    assert bad["call_id"] == "2@192.0.2.1"
    assert bad["time"] is not None
    if field != "time":
        assert bad[field] is None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"5",
        b'"x"',
        b"[]",
        b"{",
        b'{"call_id":"x"',
        b'{"call_id":"x"}{"call_id":"y"}',
        b'{"call_id":"x"} {"call_id":"y"}',
        b'{"call_id":"x"}null{"call_id":"y"}',
        b'{"call_id":"x"},{"call_id":"y"}',
        b'{"call_id":"\xff"}',
        b'{"call_id":NaN}',
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"x":' + b"[" * 100_000,
        b"{" + b'"a":{' * 100_000 + b"}" * 100_001,
        b"\x00",
        b"   ",
        b"{}\r",
    ],
)
def test_a_line_that_is_no_record_moves_no_other_one(line: bytes) -> None:
    """Not even where another line of the same agent makes up for the number of objects."""
    hostile = raw(text_of([call(1)]) + b"\n" + line + b"\n" + text_of([call(3)]), 3, agent="hostile")
    double = raw(b'{"call_id":"x"}{"call_id":"y"}', 1, 4, agent="hostile")
    rows = calls_of(lines([call(10)], agent="a1"), hostile, lines([call(11), call(12)], agent="a2"), double)
    assert [(r["agent"], r["sequence"]) for r in rows] == [
        ("a1", 1),
        ("hostile", 1),
        ("hostile", 2),
        ("hostile", 3),
        ("a2", 1),
        ("a2", 2),
        ("hostile", 4),
    ]
    assert [r["call_id"] for r in rows if r["agent"] != "hostile"] == [f"{n}@192.0.2.1" for n in (10, 11, 12)]
    if line != b"{}\r":
        assert UNREADABLE in (rows[2]["rest"] or "") or "x" in json.loads(rows[2]["rest"])
    assert encoded(tables_of([hostile], WHEN)[CALLS], 1).size > 0


def test_an_object_over_two_lines_is_two_unreadable_lines() -> None:
    rows = calls_of(raw(b'{"call_id":\n{"call_id":"x"}}', 2))
    assert [r["sequence"] for r in rows] == [1, 2]
    assert all(UNREADABLE in r["rest"] for r in rows)


def test_half_of_a_surrogate_pair_is_spelt_out() -> None:
    (row,) = calls_of(raw(b'{"time":"2027-01-15T08:00:00Z","call_id":"\\ud800"}', 1))
    assert row["call_id"] == "\\ud800"


def test_a_million_bytes_on_one_line_are_one_record() -> None:
    (row, other) = calls_of(lines([call(1, from_uri="x" * (9 << 20)), call(2)]))
    assert len(row["from_uri"]) == 9 << 20
    assert other["call_id"] == "2@192.0.2.1"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from([field.name for field in SCHEMAS[CALLS]]) | st.text()
records = st.dictionaries(names, values, max_size=6)


@given(st.lists(st.lists(records | values, min_size=1, max_size=4), min_size=1, max_size=4), st.booleans())
def test_any_json_keeps_its_place_and_its_content(batches: list[list[Any]], whole: bool) -> None:
    parts = [
        lines([call(0, **v) if whole and isinstance(v, dict) else v for v in batch], agent=f"a{n}")
        for n, batch in enumerate(batches)
    ]
    table = tables_of(parts, WHEN)[CALLS]
    table.validate(full=True)
    assert table.schema == SCHEMAS[CALLS]
    assert not table["time"].null_count
    rows = table.to_pylist()
    assert [(r["agent"], r["sequence"]) for r in rows] == [
        (part.agent, n) for part in parts for n in range(1, part.count + 1)
    ]
    flat = [value for batch in batches for value in batch]
    for row, value in zip(rows, flat, strict=True):
        rest = json.loads(row["rest"] or "{}")
        if isinstance(value, dict):
            for name, given_value in value.items():
                if given_value is not None and name not in ("agent", "epoch", "sequence", "kind", "rest"):
                    kept = name in rest or row.get(name) is not None
                    assert kept, (name, given_value)
        else:
            assert UNREADABLE in rest


@given(st.binary(max_size=200), st.integers(1, 5))
def test_any_bytes_become_so_many_rows(text: bytes, count: int) -> None:
    table = tables_of([raw(text, count), lines([call(1)], agent="a2")], WHEN)[CALLS]
    table.validate(full=True)
    assert table.num_rows == count + 1
    assert table.slice(count).to_pylist()[0]["call_id"] == "1@192.0.2.1"
    assert isinstance(encoded(table, 1), pa.Buffer)
