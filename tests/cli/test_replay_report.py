"""Rows and sums of a replay: alike refusals fold, memory stays bounded, nothing reaches the terminal raw."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.calls.attempts import Seen
from agent.cli import replay_report
from agent.cli.replay_report import (
    FOLD_AFTER,
    RUN_GAP,
    FoldedRows,
    Summary,
    add_change,
    add_notes,
    add_refused,
    changes,
    clock,
    verdict_entry,
)
from agent.ingress.replay import FileCounts, Outcome
from agent.model import (
    ALLOW,
    DROP,
    NO_NUMBER,
    Answer,
    CallAttempt,
    Category,
    Number,
    NumberKind,
    Refuse,
    Verdict,
)
from agent.policy.compile import compile_policy
from agent.screening import Decision
from agent.sip.scan import scan
from sbcedge.policy.v1 import policy_pb2

POLICY = compile_policy(policy_pb2.Policy(), {})
BUSY, SILENT = Refuse(Answer(503, "Service Unavailable")), DROP
PASS = Verdict(ALLOW, "", Category.NONE, "no rule objects")
FULL = Verdict(BUSY, "rate", Category.LIMIT, "31 attempts in 1 s")


def decision(
    verdict: Verdict = PASS,
    *,
    shadow: tuple[Verdict, ...] = (),
    trunk: str = "east",
    when: float = 1e9,
    calling: Number | None = None,
    uri: str = "sip:+12015550123@example.com",
    seen: Seen = Seen.NEW,
    notes: tuple[str, ...] = (),
) -> Decision:
    number = Number(NumberKind.NANP, "12015550123", 2015550123) if calling is None else calling
    message = scan(f"INVITE sip:+13035550199@example.com SIP/2.0\r\nFrom: <{uri}>;tag=1\r\nCall-ID: c\r\n\r\n".encode())
    called = Number(NumberKind.NANP, "13035550199", 3035550199)
    attempt = CallAttempt(when, trunk, "", "", "192.0.2.1", number, NO_NUMBER, called, NO_NUMBER, message, notes)
    return Decision(seen, attempt, verdict, shadow, POLICY)


def outcome(*decisions: Decision | None, when: float = 1e9) -> Outcome:
    return Outcome(when, decisions)


def refusals(*times: float, limit: int = 100) -> FoldedRows:
    rows = FoldedRows(limit)
    for when in times:
        add_refused(rows, outcome(decision(FULL), when=when))
    return rows


def test_first_refusals_of_a_kind_are_shown_and_the_rest_is_counted() -> None:
    rows = refusals(*(1e9 + n / 10 for n in range(FOLD_AFTER + 20))).rows
    assert len(rows) == FOLD_AFTER + 1
    assert rows[0][1:] == [
        "12015550123",
        "13035550199",
        "east",
        "rate",
        "31 attempts in 1 s",
        "503 Service Unavailable",
    ]
    assert rows[-1][:3] == ["… 01:46:42.200", "and 20 more like these", ""]
    assert refusals(*[1e9] * (FOLD_AFTER + 1)).rows[-1][1] == "and 1 more like it"


def test_kinds_that_interleave_fold_each_by_itself() -> None:
    rows = FoldedRows(100)
    for _ in range(50):
        for trunk in ("east", "west"):
            add_refused(rows, outcome(decision(FULL, trunk=trunk)))
    assert len(rows.rows) == 2 * (FOLD_AFTER + 1)
    assert [row[1] for row in rows.rows[-2:]] == ["and 47 more like these"] * 2


def test_refusal_after_a_pause_is_news_again() -> None:
    assert len(refusals(*[1e9] * 10, *[1e9 + RUN_GAP + 1] * 2).rows) == FOLD_AFTER + 1 + 2


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 100)), max_size=200), st.integers(0, 12))
def test_every_refusal_is_in_a_row_in_a_count_or_among_the_unshown(
    arrivals: list[tuple[str, float]], limit: int
) -> None:
    rows = FoldedRows(limit)
    for trunk, when in sorted(arrivals, key=lambda a: a[1]):
        add_refused(rows, outcome(decision(FULL, trunk=trunk), when=when))
    assert len(rows.rows) <= limit
    shown = sum(int(row[1].split()[1]) if row[1].startswith("and ") else 1 for row in rows.rows)
    assert shown + rows.unshown == len(arrivals)


def test_allowed_calls_repeats_and_foreign_messages_are_no_rows() -> None:
    rows = FoldedRows(100)
    for given_outcome in (
        outcome(decision()),
        outcome(None, decision(FULL)),
        outcome(decision(FULL, seen=Seen.RETRANSMISSION), decision(FULL)),
    ):
        add_refused(rows, given_outcome)
    assert rows.rows == []


def test_dropped_call_has_no_answer() -> None:
    rows = FoldedRows(100)
    add_refused(rows, outcome(decision(Verdict(SILENT, "flood", Category.LIMIT, "too many"))))
    assert rows.rows[0][-1] == "none: dropped"


@pytest.mark.parametrize(
    ("number", "uri", "shown"),
    [
        (Number(NumberKind.ANONYMOUS, "", -1), "sip:anonymous@anonymous.invalid", "anonymous"),
        (Number(NumberKind.NOT_A_NUMBER, "", -1), "sip:alice@example.com", "sip:alice@example.com"),
        (
            Number(NumberKind.NOT_A_NUMBER, "", -1),
            "sip:\x1b[2J\x07\u202e@a.example",
            "sip:\ufffd[2J\ufffd\ufffd@a.example",
        ),
        (NO_NUMBER, "", "none"),
        (Number(NumberKind.NOT_A_NUMBER, "", -1), "sip:" + "x" * 500, "sip:" + "x" * 155 + "…"),
    ],
)
def test_caller_without_a_number_is_shown_as_a_terminal_can_take_it(number: Number, uri: str, shown: str) -> None:
    rows = FoldedRows(100)
    add_refused(rows, outcome(decision(FULL, calling=number, uri=uri)))
    assert rows.rows[0][1] == shown


def test_notes_are_shown_and_folded_by_what_they_are_about() -> None:
    rows = FoldedRows(100)
    for number in range(10):
        add_notes(rows, outcome(decision(notes=(f"rate: {number} attempts", "other"))))
    assert len(rows.rows) == 2 * (FOLD_AFTER + 1)
    assert rows.rows[0][-1] == "rate: 0 attempts"


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        (PASS, PASS, False),
        (PASS, FULL, True),
        (FULL, PASS, True),
        (FULL, Verdict(BUSY, "rate", Category.LIMIT, "32 attempts in 1 s"), False),  # the same, at another count
        (FULL, Verdict(BUSY, "other", Category.LIMIT, "31 attempts in 1 s"), True),
        (FULL, Verdict(DROP, "rate", Category.LIMIT, "31 attempts in 1 s"), True),
        (None, PASS, True),
        (PASS, None, True),
    ],
)
def test_verdict_changes_when_something_else_happens_to_the_call_or_in_another_name(
    before: Verdict | None, after: Verdict | None, changed: bool
) -> None:
    pair = outcome(*(None if verdict is None else decision(verdict) for verdict in (before, after)))
    assert changes(pair) is changed
    rows = FoldedRows(100)
    add_change(rows, pair)
    assert len(rows.rows) == changed


def test_change_says_before_and_after() -> None:
    rows = FoldedRows(100)
    add_change(rows, outcome(decision(), decision(FULL)))
    assert rows.rows[0][-2:] == ["allowed", "503 Service Unavailable (rate)"]


def test_summary_counts_by_rule_trunk_and_answer() -> None:
    summary = Summary()
    emergency = Verdict(ALLOW, "emergency", Category.EMERGENCY, "called 911")
    for made in (
        decision(),
        decision(FULL),
        decision(FULL, trunk="west"),
        decision(emergency, trunk="west"),
        decision(Verdict(DROP, "flood", Category.LIMIT, "x")),
        decision(shadow=(FULL,)),
        decision(FULL, seen=Seen.RETRANSMISSION),
    ):
        summary.add(outcome(made))
    summary.add(outcome(None, decision(FULL)))
    counts = FileCounts("a", packets=9, methods={"INVITE": 7, "BYE": 1}), FileCounts("b", methods={"BYE": 9})
    told = summary.as_dict(list(counts))
    assert {name: told[name] for name in ("attempts", "allowed", "refused", "dropped", "shadow", "changed")} == {
        "attempts": 6,
        "allowed": 3,
        "refused": 2,
        "dropped": 1,
        "shadow": 1,
        "changed": 1,
    }
    assert told["methods"] == {"BYE": 10, "INVITE": 7}
    assert list(told["rules"]) == ["rate", "flood", "emergency"]
    assert (told["rules"]["rate"]["refused"], told["rules"]["rate"]["shadow"]) == (2, 1)
    assert (told["trunks"]["west"]["refused"], told["trunks"]["west"]["allowed"]) == (1, 1)
    assert told["answers"] == {"503 Service Unavailable": 2}


def test_verdict_entry_has_what_a_record_has_and_the_other_verdict() -> None:
    made = outcome(decision(FULL, shadow=(PASS,), notes=("near",)), None, when=1_793_631_600.5)
    assert verdict_entry(made) == {
        "time": "2026-11-02T15:00:00.500000Z",
        "call_id": "c",
        "calling": "12015550123",
        "called": "13035550199",
        "trunk": "east",
        "source": "192.0.2.1",
        "action": "refuse",
        "rule": "rate",
        "category": "limit",
        "why": "31 attempts in 1 s",
        "answer": "503 Service Unavailable",
        "notes": ["near"],
        "shadow": [{"action": "allow", "rule": "", "category": "none", "why": "no rule objects", "answer": ""}],
        "compare": {**replay_report.NOT_AN_ATTEMPT, "shadow": []},
        "changed": True,
    }


def test_time_that_no_calendar_has_is_shown_all_the_same() -> None:
    assert clock(1_793_631_600.5) == "2026-11-02 15:00:00.500"
    assert clock(1e300)
