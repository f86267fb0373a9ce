"""What becomes of offers: each test is a transcript of what comes and what follows."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.control.messages import Code, FieldViolation, InForce, Offer, Phase, Problem
from agent.control.offers import ENDS_MAX, REJECTIONS_MAX, Offers
from agent.control.soak import EVIDENCE, ILL_SECONDS, Vitals
from agent.control.steps import (
    Apply,
    Effect,
    GiveUp,
    Journal,
    Keep,
    Note,
    Prepare,
    Reinstate,
    Rejection,
    Report,
    SayHealth,
)
from tests.control.offering import a_list, an_offer

NOTHING = Journal({}, {})
WELL = Vitals()
WRONG = Problem(Code.INVALID_ARGUMENT, "limits[2].rate: is odd", (FieldViolation("limits[2].rate", "is odd"),))


def words(effects: list[Effect]) -> list[str]:
    """Effects as one reads them."""
    said = []
    for effect in effects:
        match effect:
            case Report(report):
                said.append(f"{report.phase.name.lower()} {report.generation}")
            case Note():
                said.append("note")
            case SayHealth():
                said.append("health")
            case GiveUp():
                said.append("give up")
            case Prepare(offer) | Apply(offer) | Keep(offer):
                said.append(f"{type(effect).__name__.lower()} {offer.generation}")
            case Reinstate(offer):
                said.append(f"reinstate {offer.generation if offer else 'the file'}")
    return said


def report_of(effects: list[Effect]) -> tuple[Phase, str, InForce]:
    """The last one."""
    report = [effect.report for effect in effects if isinstance(effect, Report)][-1]
    return report.phase, str(report.problem or ""), report.active


def take(offers: Offers, offer: Offer, now: float = 0.0) -> list[str]:
    """All the way to the swap."""
    said = words(offers.offer(offer)) + words(offers.prepared(offer))
    return said + words(offers.applied(offer, WELL, now))


def confirm(offers: Offers, offer: Offer, now: float = 0.0) -> None:
    take(offers, offer, now)
    assert words(offers.tick(WELL, now + offer.soak)) == ["health", f"keep {offer.generation}"]
    assert words(offers.kept(offer))[-1] == f"confirmed {offer.generation}"


def test_an_offer_is_received_validated_applied_soaked_kept_and_then_confirmed() -> None:
    offers, offer = Offers(None, NOTHING), an_offer(8)
    assert words(offers.offer(offer)) == ["received 8", "note", "prepare 8"]
    assert offers.active == InForce()
    assert words(offers.prepared(offer)) == ["validated 8", "apply 8"]
    applied = offers.applied(offer, WELL, 100.0)
    assert words(applied) == ["applied 8", "health"]
    assert report_of(applied)[2] == InForce(8, offer.sha256)
    assert offers.confirmed is None
    assert offers.tick(WELL, 129.9) == []
    assert words(offers.tick(WELL, 130.0)) == ["health", "keep 8"]
    assert offers.tick(WELL, 131.0) == []  # once
    assert words(offers.kept(offer)) == ["note", "confirmed 8"]
    assert offers.confirmed == offer


def test_an_offer_that_is_wrong_is_refused_with_its_fields_and_never_taken_again() -> None:
    offers, offer = Offers(None, NOTHING), an_offer(8)
    offers.offer(offer)
    refused = offers.refused(offer, WRONG)
    assert words(refused) == ["note", "rejected 8"]  # written down before it is said
    again = offers.offer(offer)
    assert words(again) == ["rejected 8"]
    assert report_of(again)[1] == "limits[2].rate: is odd"
    assert offers.rejected == (8,)


def test_a_refusal_outlives_the_process() -> None:
    offer = an_offer(8)
    journal = Journal({8: Rejection(offer.sha256, Phase.REJECTED, WRONG)}, {})
    assert words(Offers(None, journal).offer(offer)) == ["rejected 8"]
    assert words(Offers(None, journal).offer(an_offer(9))) == ["received 9", "note", "prepare 9"]


def test_a_hash_that_is_not_that_of_the_policy_is_refused() -> None:
    offer = replace(an_offer(8), sha256=b"x" * 32)
    said = Offers(None, NOTHING).offer(offer)
    assert report_of(said)[:2] == (Phase.REJECTED, "sha256: is not that of the policy")


def test_a_generation_does_not_change() -> None:
    offers = Offers(None, NOTHING)
    confirm(offers, an_offer(8))
    said = offers.offer(an_offer(8, "another"))
    assert report_of(said)[0] is Phase.REJECTED
    assert "was another policy before" in report_of(said)[1]
    assert offers.rejected == ()  # that the number was reused is no fault of what is in force
    assert words(offers.offer(an_offer(8))) == ["confirmed 8"]


def test_an_offer_of_what_is_in_force_is_confirmed_at_once_and_under_a_new_number_when_it_is_on_disk() -> None:
    offers, offer = Offers(None, NOTHING), an_offer(8)
    confirm(offers, offer)
    assert words(offers.offer(offer)) == ["confirmed 8"]
    same = an_offer(9, "p8")
    assert words(offers.offer(same)) == ["reinstate 9", "received 9", "keep 9"]
    assert words(offers.kept(same)) == ["note", "confirmed 9"]
    assert offers.active == InForce(9, offer.sha256)


def test_the_same_policy_with_another_list_is_a_change() -> None:
    offers = Offers(None, NOTHING)
    confirm(offers, an_offer(8, "p", lists=(a_list(content=b"1"),)))
    newer = an_offer(9, "p", lists=(a_list(generation=2, content=b"2"),))
    assert words(offers.offer(newer)) == ["received 9", "note", "prepare 9"]


def test_floors_of_lists_rise_when_they_are_confirmed_and_not_before() -> None:
    offers = Offers(None, NOTHING)
    newer = an_offer(8, lists=(a_list(generation=5),))
    take(offers, newer)
    assert offers.floors == {}
    offers.tick(WELL, 30.0)
    offers.kept(newer)
    assert offers.floors == {("dno", "industry"): 5}


def test_a_floor_never_goes_down_with_bytes_that_are_here_already() -> None:
    offers = Offers(None, NOTHING)
    confirm(offers, an_offer(8, "p", lists=(a_list(generation=5),)))
    again = an_offer(9, "p", lists=(a_list(generation=2),))
    offers.offer(again)
    offers.kept(again)
    assert offers.confirmed == again
    assert offers.floors == {("dno", "industry"): 5}


def test_a_link_or_disk_that_fails_is_no_refusal_and_is_tried_again_later_and_later() -> None:
    offers, offer = Offers(None, NOTHING), an_offer(8)
    offers.offer(offer)
    now, waits = 0.0, []
    for _ in range(8):
        assert offers.postponed(offer, "no room", now) == []
        assert "generation 8 waits: no room" in offers.trouble()
        waited = 0.0
        while not (said := offers.tick(WELL, now + waited)):
            waited += 0.5
        assert words(said) == ["prepare 8"]
        waits.append(waited)
        now += waited
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert words(offers.prepared(offer)) == ["validated 8", "apply 8"]


def test_a_list_that_comes_piece_by_piece_is_not_waited_for_longer_and_longer() -> None:
    offers, offer = Offers(None, NOTHING), an_offer(8)
    offers.offer(offer)
    for now in range(20):
        offers.postponed(offer, "cut", float(now), progress=True)
        assert words(offers.tick(WELL, now + 1.0)) == ["prepare 8"]


def test_an_offer_that_comes_again_is_answered_with_how_far_it_is_and_tried_at_once() -> None:
    offers, offer = Offers(None, NOTHING), an_offer(8)
    offers.offer(offer)
    for _ in range(9):
        offers.postponed(offer, "cut", 0.0)
    assert words(offers.offer(offer)) == ["received 8"]
    assert words(offers.tick(WELL, 0.1)) == ["prepare 8"]
    offers.prepared(offer)
    offers.applied(offer, WELL, 0.0)
    assert words(offers.offer(offer)) == ["applied 8"]


def test_a_newer_offer_takes_the_place_of_one_in_the_making() -> None:
    offers, older, newer = Offers(None, NOTHING), an_offer(8), an_offer(9)
    offers.offer(older)
    assert words(offers.offer(newer)) == ["received 9", "note", "prepare 9"]
    assert offers.prepared(older) == []
    assert offers.refused(older, WRONG) == []
    assert words(offers.prepared(newer)) == ["validated 9", "apply 9"]


def test_a_newer_offer_is_prepared_while_one_soaks_and_a_wrong_one_does_not_end_the_soak() -> None:
    offers, older, newer = Offers(None, NOTHING), an_offer(8), an_offer(9)
    take(offers, older)
    offers.offer(newer)
    said = offers.refused(newer, WRONG)
    assert report_of(said)[2] == InForce(8, older.sha256)
    assert words(offers.tick(WELL, 30.0)) == ["health", "keep 8"]


def test_one_that_replaces_a_soaking_one_goes_back_to_what_was_confirmed() -> None:
    offers = Offers(None, NOTHING)
    confirm(offers, an_offer(7))
    take(offers, an_offer(8), 100.0)
    take(offers, an_offer(9), 110.0)
    said = offers.tick(Vitals(failures=1), 111.0)
    assert words(said)[0] == "reinstate 7"


def test_an_offer_of_the_confirmed_content_ends_a_trial_without_blame() -> None:
    offers = Offers(None, NOTHING)
    confirm(offers, an_offer(7))
    take(offers, an_offer(8), 100.0)
    back = an_offer(9, "p7")
    assert words(offers.offer(back)) == ["reinstate 9", "received 9", "keep 9"]
    offers.kept(back)
    assert offers.rejected == ()
    assert offers.active.generation == 9


def test_faults_while_screening_send_it_back_for_good() -> None:
    offers = Offers(None, NOTHING)
    confirm(offers, an_offer(7))
    take(offers, an_offer(8), 100.0)
    said = offers.tick(Vitals(attempts=10, failures=2), 105.0)
    assert words(said) == ["reinstate 7", "note", "rolled_back 8", "health"]
    assert "2 faults of our own" in report_of(said)[1]
    assert report_of(said)[2] == InForce(7, an_offer(7).sha256)
    assert words(offers.offer(an_offer(8))) == ["rolled_back 8"]


def test_the_first_offer_goes_back_to_the_file() -> None:
    offers = Offers(None, NOTHING)
    take(offers, an_offer(8))
    said = offers.tick(Vitals(failures=1), 1.0)
    assert words(said)[0] == "reinstate the file"
    assert offers.active == InForce()


def test_half_of_the_calls_more_refused_than_before_send_it_back() -> None:
    offers = Offers(None, NOTHING)
    offers.tick(Vitals(1000, 100), 0.0)
    offers.tick(Vitals(2000, 200), 50.0)
    offer = an_offer(8)
    offers.offer(offer)
    offers.prepared(offer)
    offers.applied(offer, Vitals(2000, 200), 50.0)
    few = EVIDENCE - 1
    assert offers.tick(Vitals(2000 + few, 200 + few), 51.0) == []  # too few to say anything
    assert offers.tick(Vitals(2100, 260), 52.0) == []
    said = offers.tick(Vitals(2100, 261), 53.0)
    assert words(said)[0] == "reinstate the file"
    assert "0.10 before, 0.61 of 100 attempts now" in report_of(said)[1]


def test_faults_that_were_there_before_are_no_reason() -> None:
    offers = Offers(None, NOTHING)
    offers.tick(Vitals(1000, 0, 100), 0.0)
    offer = an_offer(8)
    offers.offer(offer)
    offers.prepared(offer)
    offers.applied(offer, Vitals(2000, 0, 200), 50.0)
    assert offers.tick(Vitals(2100, 0, 214), 51.0) == []
    assert words(offers.tick(Vitals(2100, 0, 216), 52.0))[0] == "reinstate the file"


def test_a_part_that_is_not_well_for_a_while_sends_it_back_unless_it_was_so_before() -> None:
    ill, well = {"spool": (False, "disk full"), "hook": (False, "gone")}, {"spool": (True, ""), "hook": (False, "gone")}
    offers, offer = Offers(None, NOTHING), an_offer(8)
    offers.offer(offer)
    offers.prepared(offer)
    offers.applied(offer, Vitals(components=well), 0.0)
    assert offers.tick(Vitals(components=ill), 1.0) == []
    assert offers.tick(Vitals(components=well), 2.0) == []  # it was a moment
    assert offers.tick(Vitals(components=ill), 3.0) == []
    said = offers.tick(Vitals(components=ill), 3.0 + ILL_SECONDS)
    assert "spool is not well since it came into force: disk full" in report_of(said)[1]


def test_a_lost_controller_is_no_reason_to_go_back() -> None:
    offers, offer = Offers(None, NOTHING), an_offer(8)
    take(offers, offer)
    alone = Vitals(components={"controller": (False, "no controller")})
    assert [words(offers.tick(alone, float(now))) for now in range(30)] == [[]] * 30
    assert words(offers.tick(alone, 30.0)) == ["health", "keep 8"]


def test_what_the_disk_does_not_take_is_not_confirmed_until_it_does() -> None:
    offers, offer = Offers(None, NOTHING), an_offer(8)
    take(offers, offer)
    offers.tick(WELL, 30.0)
    assert offers.not_kept(offer, "policy-a.slot: No space left on device", 30.0) == []
    assert "cannot be kept on disk" in offers.trouble()
    assert offers.tick(WELL, 34.0) == []
    assert words(offers.tick(WELL, 35.0)) == ["health", "keep 8"]
    assert words(offers.kept(offer)) == ["note", "confirmed 8"]
    assert offers.trouble() == ""


def test_after_a_new_session_the_last_answer_is_said_again() -> None:
    offers, offer = Offers(None, NOTHING), an_offer(8)
    assert offers.again() == []
    take(offers, offer)
    assert words(offers.again()) == ["applied 8"]
    offers.tick(WELL, 30.0)
    offers.kept(offer)
    assert words(offers.again()) == ["confirmed 8"]


def test_a_policy_applied_on_the_host_is_told_and_an_offer_puts_it_right() -> None:
    offers, offer = Offers(None, NOTHING), an_offer(8)
    confirm(offers, offer)
    offers.strayed = True
    assert offers.active == InForce()
    assert "applied on this host" in offers.trouble()
    assert words(offers.offer(offer)) == ["reinstate 8", "confirmed 8"]
    assert offers.active.generation == 8


def test_a_generation_during_which_the_process_ends_again_and_again_is_held_to_be_why() -> None:
    journal, offer = NOTHING, an_offer(8)
    for _ in range(ENDS_MAX):
        offers = Offers(None, journal)
        (note,) = [effect for effect in offers.offer(offer) if isinstance(effect, Note)]
        journal = note.journal  # and then it was killed
    said = Offers(None, journal).offer(offer)
    assert words(said) == ["note", "rolled_back 8"]
    assert "ended 3 times" in report_of(said)[1]


def test_an_orderly_end_is_held_against_nobody() -> None:
    journal, offer = NOTHING, an_offer(8)
    for _ in range(10):
        offers = Offers(None, journal)
        assert "prepare 8" in words(offers.offer(offer))
        (note,) = [effect for effect in offers.ending() if isinstance(effect, Note)]
        journal = note.journal


def test_a_damaged_slot_is_written_again_and_damaged_lists_are_fetched_again_without_a_trial() -> None:
    offers, offer = Offers(None, NOTHING), an_offer(8, lists=(a_list(),))
    assert offers.damaged(slots=True, lists=True) == []
    confirm(offers, offer)
    assert words(offers.damaged(slots=True, lists=False)) == ["keep 8"]
    assert words(offers.kept(offer)) == ["note"]
    assert words(offers.damaged(slots=False, lists=True)) == ["prepare 8"]
    assert "fetched again" in offers.trouble()
    assert words(offers.prepared(offer)) == ["reinstate 8"]
    assert offers.trouble() == ""
    assert offers.soaking is None


def test_rejections_are_bounded_and_the_newest_stay() -> None:
    offers = Offers(None, NOTHING)
    for generation in range(1, REJECTIONS_MAX + 10):
        offer = an_offer(generation)
        offers.offer(offer)
        offers.refused(offer, WRONG)
    assert offers.rejected == tuple(range(10, REJECTIONS_MAX + 10))


class AnyOrder(RuleBasedStateMachine):
    """Events in any order: every offer is answered, a refused one never comes into force, and what was confirmed
    is what one can go back to."""

    def __init__(self) -> None:
        super().__init__()
        self.offers = Offers(None, NOTHING)
        self.now = 0.0
        self.preparing: Offer | None = None
        self.keeping: Offer | None = None
        self.in_force: Offer | None = None
        self.dead: set[int] = set()

    def do(self, effects: list[Effect]) -> None:
        pending = list(effects)
        while pending:
            match pending.pop(0):
                case Report(report):
                    if report.phase in (Phase.REJECTED, Phase.ROLLED_BACK):
                        assert report.problem is not None
                        if report.generation != self.offers.active.generation:
                            self.dead.add(report.generation)
                    if report.phase is Phase.CONFIRMED:
                        assert report.active.sha256 == report.sha256
                case Prepare(offer):
                    self.preparing = offer
                case GiveUp():
                    self.preparing = None
                case Apply(offer):
                    assert offer.generation not in self.offers.rejected
                    self.in_force = offer
                    self.preparing = None
                    pending += self.offers.applied(offer, WELL, self.now)
                case Reinstate(offer):
                    self.in_force = offer
                case Keep(offer):
                    self.keeping = offer
                case _:
                    pass

    @rule(generation=st.integers(1, 6), name=st.sampled_from(["", "x", "y"]))
    def offered(self, generation: int, name: str) -> None:
        effects = self.offers.offer(an_offer(generation, name, soak=2.0))
        assert any(isinstance(effect, Report) and effect.report.generation == generation for effect in effects)
        self.do(effects)

    @precondition(lambda self: self.preparing is not None)
    @rule(how=st.sampled_from(["prepared", "refused", "postponed"]))
    def comes_out(self, how: str) -> None:
        offer, self.preparing = self.preparing, None
        assert offer is not None
        arguments = {"prepared": (), "refused": (WRONG,), "postponed": ("cut", self.now)}[how]
        self.do(getattr(self.offers, how)(offer, *arguments))

    @precondition(lambda self: self.keeping is not None)
    @rule(well=st.booleans())
    def disk(self, *, well: bool) -> None:
        offer, self.keeping = self.keeping, None
        assert offer is not None
        self.do(self.offers.kept(offer) if well else self.offers.not_kept(offer, "full", self.now))

    @rule(seconds=st.sampled_from([0.5, 3.0, 100.0]), failures=st.sampled_from([0, 0, 0, 5]))
    def time(self, seconds: float, failures: int) -> None:
        self.now += seconds
        self.do(self.offers.tick(Vitals(failures=failures), self.now))

    @rule(slots=st.booleans(), lists=st.booleans())
    def decays(self, *, slots: bool, lists: bool) -> None:
        self.do(self.offers.damaged(slots=slots, lists=lists))

    @invariant()
    def what_is_said_to_be_in_force_is(self) -> None:
        active = self.offers.active
        assert active.sha256 == (self.in_force.sha256 if self.in_force is not None else b"")
        trial = self.offers.soaking
        if trial is None:
            assert self.in_force is None or self.in_force.content == (self.offers.confirmed or self.in_force).content


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
