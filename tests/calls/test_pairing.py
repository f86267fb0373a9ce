"""Legs of one call find each other, whatever the SBC made new; each is counted once, and its Identity compared."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.calls import pairing
from agent.calls.legs import AnswerResult, Match, TransitResult
from agent.calls.pairing import LIFETIME, MAX_LEGS, OTHERS, PATIENCE, WINDOW, Pairing, Side
from agent.sip.scan import scan
from tests.fakes.calls import CALLED, CALLER, invite, response

TOKEN = "eyJhIjoxfQ.eyJiIjoyfQ.c2ln;info=<https://cert.example.net/a.pem>;ppt=shaken"
OTHER_TOKEN = TOKEN.replace("eyJhIjoxfQ", "eyJhIjoyfQ")
NOTICE = 'Reason: SIP;cause=603;text="v=analytics1;url=https://redress.example.net/"'
SIGNED = (f"Identity: {TOKEN}",)

_fresh = count(1)


@dataclass
class Bench:
    """A pairing with a clock, and what it found."""

    now: float = 1_000.0
    transits: list[TransitResult] = field(default_factory=list)
    answers: list[AnswerResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pairing = Pairing(self.transits.append, self.answers.append)

    def sees(self, raw: bytes, side: Side, trunk: str, after: float = 0.01) -> bytes:
        self.now += after
        self.pairing.observe(scan(raw), side, trunk, self.now + 1.8e9, self.now)
        return raw

    def gets(self, raw: bytes, trunk: str = "alpha", after: float = 0.01) -> bytes:
        return self.sees(raw, Side.IN, trunk, after)

    def sends(self, raw: bytes, trunk: str = "beta", after: float = 0.01) -> bytes:
        return self.sees(raw, Side.OUT, trunk, after)

    def count(self, name: str) -> int:
        return self.pairing.counters()[f"transit_{name}"]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def leg(
    call_id: str | None = None, headers: tuple[str, ...] = (), calling: str = CALLER, called: str = CALLED, **rest: int
) -> bytes:
    """An INVITE; a fresh Call-ID unless given, always a fresh branch."""
    return invite(called, calling, call_id=call_id, headers=headers, **rest)  # type: ignore[arg-type]


def anonymous(call_id: str | None = None, headers: tuple[str, ...] = ()) -> bytes:
    return leg(call_id, headers, calling="sip:anonymous@anonymous.invalid")


def test_a_call_id_that_is_kept_pairs_the_legs(bench: Bench) -> None:
    bench.gets(anonymous("c1", SIGNED))
    bench.sends(anonymous("c1", SIGNED))
    (found,) = bench.transits
    assert (found.match, found.first, found.ingress, found.egress) == (Match.CALL_ID, True, "alpha", "beta")
    assert found.transit.intact
    assert found.call_id == found.call_id_out == b"c1"


def test_a_new_call_id_is_bridged_by_the_token(bench: Bench) -> None:
    bench.gets(anonymous("c1", SIGNED))
    bench.gets(anonymous("c2", (f"Identity: {OTHER_TOKEN}",)))
    bench.sends(anonymous("b2", (f"Identity: {OTHER_TOKEN}",)), after=30.0)
    bench.sends(anonymous("b1", (f"Identity: {TOKEN}".replace(";info", " ;info"),)))
    assert [(t.call_id, t.call_id_out, t.match) for t in bench.transits] == [
        (b"c2", b"b2", Match.IDENTITY),
        (b"c1", b"b1", Match.IDENTITY),
    ]
    assert [t.transit.intact for t in bench.transits] == [True, False]


def test_without_identity_the_numbers_and_the_time_decide(bench: Bench) -> None:
    bench.gets(leg("c1"))
    bench.sends(leg("b1", calling="sip:2015550123@sbc.example.com", called="sip:13035550199@beta.example"))
    (found,) = bench.transits
    assert found.match is Match.NUMBERS
    assert found.transit.before == 0


def test_a_stripped_identity_is_found_by_the_numbers(bench: Bench) -> None:
    bench.gets(leg("c1", SIGNED))
    bench.sends(leg("b1"))
    (found,) = bench.transits
    assert found.transit.stripped == 1
    assert bench.pairing.trunks["alpha", "beta"].kept == 0.0


def test_a_called_number_that_is_translated_is_found_by_to(bench: Bench) -> None:
    bench.gets(leg("c1"))
    bench.sends(invite("sip:+15035550177@beta.example", CALLER, to=CALLED))
    assert [t.match for t in bench.transits] == [Match.NUMBERS]


def test_numbers_alone_do_not_pair_after_the_window_or_before_the_call(bench: Bench) -> None:
    bench.gets(leg("c1"))
    bench.sends(leg("b1"), after=WINDOW + 0.1)
    assert not bench.transits
    bench.sends(leg("b2", calling="sip:+12015550124@x.example"))
    bench.gets(leg("c2", calling="sip:+12015550124@x.example"))  # comes later by the kernel's clock
    assert not bench.transits


def test_of_calls_alike_the_one_that_waited_longest_is_taken(bench: Bench) -> None:
    for name in ("c1", "c2"):
        bench.gets(leg(name))
    for name in ("b1", "b2"):
        bench.sends(leg(name))
    assert [(t.call_id, t.call_id_out) for t in bench.transits] == [(b"c1", b"b1"), (b"c2", b"b2")]
    assert bench.count("ambiguous") == 1


def test_one_call_is_counted_once_however_often_it_is_sent(bench: Bench) -> None:
    bench.gets(leg("c1", SIGNED))
    for trunk in ("beta", "gamma", "delta"):
        bench.sends(leg(f"b-{trunk}"), trunk)
    bench.pairing.tick(bench.now + PATIENCE + 0.1)  # without a token, a further leg might be of a call not yet seen
    assert [t.first for t in bench.transits] == [True, False, False]
    assert bench.count("paired") == 1
    assert bench.count("legs") == 3
    assert bench.pairing.trunks["alpha", "beta"].calls == 1
    assert bench.pairing.trunks["alpha", "gamma"].calls == 0


def test_calls_alike_are_told_apart_though_their_legs_are_seen_first(bench: Bench) -> None:
    """Two interfaces, each with its own queue: c1, b1 | c2, b2 are seen as b1, b2 of the far side and then c1, c2."""
    seen = [("c1", Side.IN, 0.0), ("b1", Side.OUT, 0.1), ("b2", Side.OUT, 0.3), ("c2", Side.IN, 0.2)]
    for name, side, at in seen:
        bench.pairing.observe(scan(leg(name)), side, "alpha", 1.8e9 + at, bench.now)
    for name, side, at in [("b3", Side.OUT, 0.5), ("b4", Side.OUT, 0.7), ("c3", Side.IN, 0.4), ("c4", Side.IN, 0.6)]:
        bench.pairing.observe(scan(leg(name)), side, "alpha", 1.8e9 + at, bench.now)
    assert [(t.call_id, t.call_id_out) for t in bench.transits] == [
        (f"c{n}".encode(), f"b{n}".encode()) for n in (1, 2, 3, 4)
    ]


def test_a_call_id_of_a_leg_belongs_to_its_call(bench: Bench) -> None:
    """A fork of a new Call-ID, with nothing else to know it by."""
    bench.gets(anonymous("c1", SIGNED))
    bench.sends(anonymous("b1", SIGNED), "beta")
    bench.sends(anonymous("b1"), "gamma")
    assert [(t.egress, t.transit.stripped) for t in bench.transits] == [("beta", 0), ("gamma", 1)]


def test_copies_on_either_side_change_nothing(bench: Bench) -> None:
    came, went = leg("c1", SIGNED), leg("c1", SIGNED)
    for _ in range(3):
        bench.gets(came)
        bench.sends(went)
    assert len(bench.transits) == 1
    assert bench.count("calls") == 1


def test_a_retry_after_a_challenge_of_the_next_hop_is_no_further_leg(bench: Bench) -> None:
    bench.gets(leg("c1"))
    bench.sends(leg("b1", cseq=1))
    bench.sends(leg("b1", cseq=2))
    assert len(bench.transits) == 1
    bench.sends(leg("b1", cseq=2), "gamma")  # another hop is another leg
    assert len(bench.transits) == 2


def test_a_retry_after_our_challenge_brings_its_own_identity(bench: Bench) -> None:
    bench.gets(leg("c1", SIGNED, cseq=1))
    bench.gets(leg("c1", (f"Identity: {OTHER_TOKEN}",), cseq=2))
    bench.sends(anonymous("b1", (f"Identity: {OTHER_TOKEN}",)))
    (found,) = bench.transits
    assert found.transit.intact
    assert bench.count("calls") == 1


def test_legs_seen_in_the_wrong_order_find_each_other(bench: Bench) -> None:
    bench.pairing.observe(scan(anonymous("b1", SIGNED)), Side.OUT, "beta", 1.8e9 + 0.2, bench.now)
    bench.pairing.observe(scan(leg("b2")), Side.OUT, "beta", 1.8e9 + 0.2, bench.now)
    bench.pairing.observe(scan(anonymous("b3")), Side.OUT, "beta", 1.8e9 + 0.2, bench.now)
    assert not bench.transits
    bench.pairing.observe(scan(anonymous("c1", SIGNED)), Side.IN, "alpha", 1.8e9, bench.now)
    bench.pairing.observe(scan(leg("c2")), Side.IN, "alpha", 1.8e9, bench.now)
    bench.pairing.observe(scan(anonymous("b3")), Side.IN, "alpha", 1.8e9, bench.now)
    assert [t.match for t in bench.transits] == [Match.IDENTITY, Match.NUMBERS, Match.CALL_ID]
    assert bench.count("legs_waiting") == 0


def test_an_invite_of_the_sbc_itself_is_counted_as_its_own(bench: Bench) -> None:
    bench.sends(leg("b1"))
    bench.pairing.tick(bench.now + PATIENCE + 0.1)
    assert bench.count("own") == 1
    bench.gets(leg("c1"))
    assert not bench.transits


def test_a_call_that_is_not_forwarded_is_counted_when_it_is_forgotten(bench: Bench) -> None:
    bench.gets(leg("c1"))
    bench.gets(leg("c2"))
    bench.sends(leg("c2"))
    bench.pairing.tick(bench.now + LIFETIME + 1.0)
    assert bench.count("not_forwarded") == 1
    assert bench.count("calls_held") == 0
    tables = (bench.pairing._by_key, bench.pairing._by_numbers._items, bench.pairing._transactions, bench.pairing._legs)
    assert not any(tables)


def test_rows_added_by_the_sbc_are_counted_and_no_fault(bench: Bench) -> None:
    bench.gets(leg("c1"))
    bench.sends(leg("c1", SIGNED))
    counts = bench.pairing.trunks["alpha", "beta"]
    assert (counts.signed, counts.added, counts.kept) == (0, 1, 1.0)


# ---- refusals on their way back ----


def refusal(request: bytes, start: str, *rows: str) -> bytes:
    _, _, rest = response(request, 603).partition(b"\r\n")
    return "\r\n".join([f"SIP/2.0 {start}", *rows, ""]).encode() + rest


def test_a_refusal_that_is_passed_on_whole_is_kept(bench: Bench) -> None:
    came, went = bench.gets(leg("c1")), bench.sends(leg("b1"))
    bench.gets(refusal(went, "603 Network Blocked", NOTICE), "beta")
    bench.sends(refusal(came, "603 Network Blocked", NOTICE), "alpha")
    bench.sends(refusal(came, "603 Network Blocked", NOTICE), "alpha")
    (found,) = bench.answers
    assert (found.ingress, found.egress, found.lost) == ("alpha", "beta", ())
    assert found.came.notice


def test_a_refusal_that_loses_phrase_and_reason_is_told(bench: Bench) -> None:
    came, went = bench.gets(leg("c1")), bench.sends(leg("c1"))
    bench.gets(refusal(went, "603 Network Blocked", NOTICE), "beta")
    bench.sends(refusal(came, "603 Decline"), "alpha")
    (found,) = bench.answers
    assert found.lost == ("phrase", "Reason")
    assert bench.pairing.trunks["alpha", "beta"].refusals_altered == 1


def test_both_sides_of_a_refusal_may_be_seen_in_the_wrong_order_but_not_happen_in_it(bench: Bench) -> None:
    came, went = bench.gets(leg("c1")), bench.sends(leg("b1"))
    out, back = scan(refusal(came, "603 Decline")), scan(refusal(went, "603 Network Blocked", NOTICE))
    bench.pairing.observe(out, Side.OUT, "alpha", bench.now + 1.8e9 + 0.2, bench.now)
    bench.pairing.observe(back, Side.IN, "beta", bench.now + 1.8e9 + 0.1, bench.now)
    assert len(bench.answers) == 1
    came, went = bench.gets(leg("c2")), bench.sends(leg("c2"))
    bench.sends(refusal(came, "408 Timeout"), "alpha")  # the SBC gave up by itself
    bench.gets(refusal(went, "603 Network Blocked", NOTICE), "beta", after=1.0)
    assert len(bench.answers) == 1


@pytest.mark.parametrize("far_first", [True, False])
def test_a_refused_call_is_compared_if_one_interface_is_seen_wholly_before_the_other(
    bench: Bench, far_first: bool
) -> None:
    came, went = leg("c1", SIGNED), leg("b1", SIGNED)
    near = [(came, Side.IN, "alpha", 0.1), (refusal(came, "603 Decline"), Side.OUT, "alpha", 0.4)]
    far = [(went, Side.OUT, "beta", 0.2), (refusal(went, "603 Network Blocked", NOTICE), Side.IN, "beta", 0.3)]
    for raw, side, trunk, at in far + near if far_first else near + far:
        bench.pairing.observe(scan(raw), side, trunk, 1.8e9 + at, bench.now)
    assert [found.lost for found in bench.answers] == [("phrase", "Reason")]


def test_only_the_last_answer_of_several_legs_is_passed_on(bench: Bench) -> None:
    came = bench.gets(leg("c1"))
    first, second = bench.sends(leg("b1")), bench.sends(leg("b1"), "gamma")
    bench.gets(refusal(first, "603 Network Blocked", NOTICE), "beta")
    bench.gets(refusal(second, "404 Not Found"), "gamma")
    bench.sends(refusal(came, "404 Not Found"), "alpha")
    assert not bench.answers


def test_ordinary_answers_are_not_compared(bench: Bench) -> None:
    came, went = bench.gets(leg("c1")), bench.sends(leg("b1"))
    bench.gets(response(went, 486), "beta")
    bench.sends(response(came, 480), "alpha")
    bench.gets(response(went, 200), "beta")
    bench.sends(response(came, 200), "alpha")
    assert not bench.answers


def test_refusals_by_the_sbc_itself_are_not_transit(bench: Bench) -> None:
    came = bench.gets(leg("c1"))
    bench.sends(refusal(came, "603 Decline"), "alpha")
    assert not bench.answers


# ---- bounds ----


def test_the_oldest_call_makes_room_and_is_counted() -> None:
    tight = Pairing(capacity=3)
    for number in range(5):
        tight.observe(scan(leg(f"c{number}")), Side.IN, "alpha", 1.8e9, float(number))
    assert len(tight) == 3
    assert tight.counts.calls_overflow == 2
    tight.observe(scan(anonymous("c0")), Side.OUT, "beta", 1.8e9, 5.0)
    assert not tight.trunks


def test_legs_beyond_the_bound_are_counted(bench: Bench) -> None:
    bench.gets(leg("c1"))
    for _ in range(MAX_LEGS + 3):
        bench.sends(leg("c1"))
    assert len(bench.transits) == MAX_LEGS
    assert bench.count("legs_overflow") == 3


def test_trunk_pairs_beyond_the_bound_are_counted_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "MAX_PAIRS", 2)
    for number in range(4):
        bench.gets(leg(f"c{number}"))
        bench.sends(leg(f"c{number}"), f"trunk-{number}")
    assert bench.pairing.trunks[OTHERS, OTHERS].calls == 2


def test_waiting_legs_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "MAX_WAITING", 4)
    for number in range(6):
        bench.sends(leg(f"b{number}"), after=0.0)
    assert bench.count("waiting_overflow") == 2
    assert bench.count("legs_waiting") == 4


def test_its_health_says_where_identity_gets_lost(bench: Bench) -> None:
    assert bench.pairing.health() == (True, "0 calls seen on both legs, none signed")
    for number in range(3):
        bench.gets(leg(f"c{number}", SIGNED))
        bench.sends(leg(f"c{number}", SIGNED if number else ()))
    assert bench.pairing.health() == (
        True,
        "Identity kept on 2 of 3 signed legs (66.7 %); worst: alpha to beta, 66.7 %",
    )


def test_it_is_a_component_whose_counters_carry_its_name(bench: Bench) -> None:
    assert bench.pairing.name == "transit"
    assert all(name.startswith("transit_") for name in bench.pairing.counters())


def _messages() -> Iterator[bytes]:
    for call_id in ("x", "y", "z"):
        for cseq in (1, 2):
            for headers in ((), SIGNED):
                yield invite(call_id=call_id, cseq=cseq, headers=headers, branch=f"z9hG4bK{call_id}{cseq}")
    for raw in [invite(call_id=call_id, branch=f"z9hG4bK{call_id}1") for call_id in "xyz"]:
        yield refusal(raw, "603 Network Blocked", NOTICE)
        yield response(raw, 200)


@given(
    st.lists(st.tuples(st.sampled_from(list(_messages())), st.sampled_from(list(Side)), st.floats(0, 300)), max_size=60)
)
def test_whatever_the_order_the_tables_agree(steps: list[tuple[bytes, Side, float]]) -> None:
    bench = Bench()
    for raw, side, after in steps:
        bench.sees(raw, side, "alpha", after)
    made = bench.pairing
    assert made.counts.paired == sum(transit.first for transit in bench.transits)
    assert made.counts.paired + made.counts.not_forwarded <= made.counts.calls
    assert all(call in made._calls.values() for call in made._transactions.values())
    assert all(found.call is None or found.call in made._calls.values() for found in made._legs.values())
    made.tick(bench.now + LIFETIME + PATIENCE)
    assert not any((made._calls, made._by_key, made._by_numbers._items, made._transactions, made._legs))
    assert not any((made._waiting, made._waiting_by._items))
