"""Rollouts as transcripts: what each agent says, in seconds, and what is decided then."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.fleet.judging import LOST_SECONDS, PATIENCE_SECONDS, Member
from controller.fleet.rollout import AT_ONCE, DEFAULT_PLAN, Case, advance
from controller.model import FieldViolation, HealthNote, OfferPhase, Problem, Rollout, RolloutPlan, RolloutState

OLD, NEW = 7, 8
START = 1_800_000_000.0


SOAK = DEFAULT_PLAN.soak


class Fleet:
    """Agents that do what they are told, and a rollout that is thought about once for every `think`."""

    def __init__(self, size: int, plan: RolloutPlan = DEFAULT_PLAN, *, returning: bool = False) -> None:
        self.now = START
        self.agents = {f"a{n:03}": Member(f"a{n:03}", connected=True, health=_health()) for n in range(size)}
        rollout = Rollout(NEW, RolloutState.RUNNING, plan, START, step_started_at=START)
        self.case = Case(rollout, way_back=True, returning=returning)
        self.offered: list[set[str]] = []

    def think(self, after: float = SOAK) -> set[str]:
        """Who gets the offer now."""
        self.now += after
        decision = advance(self.case, list(self.agents.values()), self.now)
        kept = replace(decision.rollout, memory=json.loads(json.dumps(decision.rollout.memory)))  # as the store does
        self.case = replace(self.case, rollout=kept)
        for name in decision.assign:
            self.says(name, OfferPhase.OFFERED)
        return set(decision.assign)

    def says(self, name: str, phase: OfferPhase, problem: Problem | None = None) -> None:
        self.agents[name] = replace(self.agents[name], phase=phase, problem=problem, updated_at=self.now)

    def is_like(self, name: str, **health: Any) -> None:
        before = self.agents[name].health or HealthNote(self.now)
        self.agents[name] = replace(self.agents[name], health=replace(before, at=self.now, **health))

    def confirms(self, *names: str, **health: Any) -> None:
        for name in names:
            self.says(name, OfferPhase.CONFIRMED)
            self.is_like(name, **{"active_generation": NEW, "attempts": 0, "refusals": 0, **health})

    def leaves(self, name: str) -> None:
        self.agents[name] = replace(self.agents[name], connected=False, seen_at=self.now)

    def returns(self, name: str) -> None:
        self.agents[name] = replace(self.agents[name], connected=True)

    @property
    def state(self) -> str:
        return self.case.rollout.state.value

    @property
    def why(self) -> str:
        return self.case.rollout.why


def _health(**changes: Any) -> HealthNote:
    return HealthNote(START, **{"active_generation": OLD, "attempts": 1000, "refusals": 20, **changes})


def test_a_generation_goes_to_one_then_to_a_tenth_then_to_all() -> None:
    fleet = Fleet(40)
    canary = fleet.think()
    assert len(canary) == 1
    assert fleet.think() == set()  # nobody else before the canary has said yes
    fleet.confirms(*canary)
    tenth = fleet.think()
    assert len(tenth | canary) == 4
    fleet.confirms(*tenth)
    rest = fleet.think()
    assert len(rest | tenth | canary) == 40
    fleet.confirms(*rest)
    fleet.think()
    assert fleet.state == "done"


def test_one_agent_is_its_own_canary_and_the_whole_fleet() -> None:
    fleet = Fleet(1)
    assert fleet.think() == {"a000"}
    fleet.confirms("a000")
    fleet.think()
    assert fleet.state == "done"


def test_without_agents_it_is_done_at_once_so_that_those_who_come_get_it() -> None:
    fleet = Fleet(0)
    fleet.think()
    assert (fleet.state, fleet.why) == ("done", "there are no agents yet")


def test_the_canary_is_well_and_carries_just_enough_traffic_to_show_something() -> None:
    fleet = Fleet(5)
    for name, rate in zip(fleet.agents, (500.0, 3.0, 2.0, 0.0, 1.0), strict=True):
        fleet.is_like(name, attempts_per_second=rate)
    fleet.is_like("a004", trouble={"hook": "no clients"})
    assert fleet.think() == {"a002"}


def test_confirmed_is_not_believed_before_its_health_is_heard_of() -> None:
    fleet = Fleet(2)
    fleet.think()
    fleet.says("a000", OfferPhase.CONFIRMED)
    assert fleet.think() == set()
    fleet.is_like("a000", active_generation=NEW, attempts=0, refusals=0)
    assert fleet.think() == {"a001"}


@pytest.mark.parametrize("phase", [OfferPhase.REJECTED, OfferPhase.ROLLED_BACK])
def test_a_refusal_rolls_back_and_names_agent_and_field(phase: OfferPhase) -> None:
    fleet = Fleet(20)
    (canary,) = fleet.think()
    fleet.says(canary, phase, Problem(3, "no", (FieldViolation("limits[2].rate", "must be positive"),)))
    assert fleet.think() == set()
    assert fleet.state == "rolled-back"
    assert canary in fleet.why
    assert "limits[2].rate: must be positive" in fleet.why
    assert fleet.think() == set()  # and it is over


def test_without_a_generation_to_go_back_to_it_is_halted() -> None:
    fleet = Fleet(2)
    fleet.case = replace(fleet.case, way_back=False)
    fleet.think()
    fleet.says("a000", OfferPhase.REJECTED)
    fleet.think()
    assert fleet.state == "halted"


def test_a_refusal_of_an_earlier_rollout_of_the_same_generation_halts_nothing_and_nobody_is_asked_twice() -> None:
    fleet = Fleet(2)
    fleet.agents["a000"] = replace(fleet.agents["a000"], phase=OfferPhase.REJECTED, updated_at=START - 60)
    assert fleet.think() == {"a001"}
    fleet.confirms("a001")
    fleet.think()
    assert fleet.state == "done"


def test_a_sudden_rise_of_refusals_at_the_canary_rolls_back() -> None:
    fleet = Fleet(20)
    (canary,) = fleet.think()
    fleet.says(canary, OfferPhase.APPLIED)
    fleet.is_like(canary, active_generation=NEW, attempts=19, refusals=19)
    fleet.think()
    assert fleet.state == "running"  # nineteen attempts say nothing yet
    fleet.is_like(canary, active_generation=NEW, attempts=40, refusals=40)
    fleet.think()
    assert fleet.state == "rolled-back"
    assert "0.02 before, 1.00 of 40 attempts now" in fleet.why


def test_a_share_that_chance_may_have_made_of_few_attempts_does_not_halt() -> None:
    fleet = Fleet(20)
    (canary,) = fleet.think()
    fleet.says(canary, OfferPhase.APPLIED)
    fleet.is_like(canary, active_generation=NEW, attempts=24, refusals=6)
    fleet.think()
    assert fleet.state == "running"  # a quarter, but of 24
    fleet.is_like(canary, active_generation=NEW, attempts=2400, refusals=600)
    fleet.think()
    assert fleet.state == "rolled-back"


def test_more_refusals_than_attempts_are_taken_for_all_of_them() -> None:
    fleet = Fleet(20)
    (canary,) = fleet.think()
    fleet.says(canary, OfferPhase.APPLIED)
    fleet.is_like(canary, active_generation=NEW, attempts=40, refusals=4000)
    fleet.think()
    assert fleet.state == "rolled-back"


def test_a_canary_that_refused_much_before_may_go_on_refusing_as_much() -> None:
    fleet = Fleet(1)
    fleet.is_like("a000", attempts=1000, refusals=900)
    fleet.think()
    fleet.confirms("a000", attempts=500, refusals=470)
    fleet.think()
    assert fleet.state == "done"


def test_members_of_earlier_steps_are_watched_until_the_end() -> None:
    fleet = Fleet(40)
    (canary,) = fleet.think()
    fleet.confirms(canary)
    assert fleet.think()
    fleet.is_like(canary, attempts=100, refusals=90)
    assert fleet.think() == set()
    assert fleet.state == "rolled-back"


def test_many_small_rises_make_one_that_halts() -> None:
    fleet = Fleet(40)
    fleet.confirms(*fleet.think())
    tenth = fleet.think()
    for name in tenth:
        fleet.says(name, OfferPhase.APPLIED)
        fleet.is_like(name, active_generation=NEW, attempts=8, refusals=8)  # each alone says nothing
    fleet.think()
    assert fleet.state == "rolled-back"
    assert fleet.why.startswith("refused share of all who have it")


def test_a_part_that_breaks_halts_and_one_that_was_broken_before_does_not() -> None:
    fleet = Fleet(2)
    for name in fleet.agents:
        fleet.is_like(name, trouble={"spool": "disk full"})
    fleet.think()
    fleet.confirms("a000", trouble={"spool": "disk full"})
    assert fleet.think() == {"a001"}
    fleet.confirms("a001", trouble={"spool": "disk full", "hook": "no clients"})
    fleet.think()
    assert fleet.state == "rolled-back"
    assert "a001 is not well: hook: no clients" in fleet.why


def test_a_canary_that_dies_of_it_halts_after_a_minute_and_a_restart_in_between_does_not_forget() -> None:
    fleet = Fleet(10)
    (canary,) = fleet.think()
    fleet.says(canary, OfferPhase.APPLIED)
    fleet.leaves(canary)
    assert fleet.think() == set()
    assert fleet.think(LOST_SECONDS - 1) == set()
    assert fleet.state == "running"
    fleet.think(5)
    assert fleet.state == "rolled-back"
    assert "has been gone for" in fleet.why


def test_a_new_connection_is_no_loss() -> None:
    fleet = Fleet(1)
    fleet.think()
    fleet.says("a000", OfferPhase.APPLIED)
    for _ in range(2):
        fleet.leaves("a000")
        fleet.think(LOST_SECONDS - 1)
        fleet.returns("a000")
        fleet.think()
    assert fleet.state == "running"


def test_one_lost_machine_of_forty_halts_nothing_and_is_not_waited_for() -> None:
    fleet = Fleet(40, RolloutPlan(AT_ONCE, 30.0, 0.2))
    everybody = fleet.think()
    fleet.confirms(*everybody - {"a007"})
    fleet.says("a007", OfferPhase.APPLIED)
    fleet.leaves("a007")
    fleet.think()
    assert fleet.state == "running"
    fleet.think(LOST_SECONDS + 1)
    assert fleet.state == "done"


def test_a_canary_that_is_gone_before_it_answered_is_replaced() -> None:
    fleet = Fleet(3)
    (first,) = fleet.think()
    fleet.leaves(first)
    (second,) = fleet.think()
    assert second != first


def test_who_is_away_gets_it_last_and_is_not_waited_for() -> None:
    fleet = Fleet(4)
    fleet.leaves("a002")
    while fleet.state == "running":
        fleet.confirms(*fleet.think() - {"a002"})
    assert fleet.state == "done"
    assert fleet.agents["a002"].phase is OfferPhase.OFFERED


def test_with_everybody_away_it_waits() -> None:
    fleet = Fleet(2)
    fleet.leaves("a000")
    fleet.leaves("a001")
    assert fleet.think(86_400) == set()
    assert (fleet.state, fleet.why) == ("running", "waiting for an agent to connect")
    fleet.returns("a001")
    assert fleet.think() == {"a001"}


def test_an_agent_that_takes_no_offers_gets_none() -> None:
    fleet = Fleet(2)
    fleet.agents["a000"] = replace(fleet.agents["a000"], able=False)
    assert fleet.think() == {"a001"}
    fleet.confirms("a001")
    fleet.think()
    assert fleet.state == "done"
    assert fleet.agents["a000"].phase is None


def test_an_agent_that_does_not_come_on_halts_when_the_patience_is_over() -> None:
    fleet = Fleet(2)
    fleet.think()
    fleet.says("a000", OfferPhase.RECEIVED)
    fleet.think(PATIENCE_SECONDS)
    assert fleet.state == "running"
    fleet.think(DEFAULT_PLAN.soak + 2)
    assert fleet.state == "rolled-back"
    assert "has been at received for" in fleet.why


def test_the_way_back_is_for_everybody_at_once_and_is_not_judged() -> None:
    fleet = Fleet(10, RolloutPlan(AT_ONCE, 30.0, 0.2), returning=True)
    assert len(fleet.think()) == 10
    fleet.says("a000", OfferPhase.REJECTED)
    fleet.confirms("a001", attempts=100, refusals=100)
    fleet.confirms(*list(fleet.agents)[2:])
    fleet.think()
    assert fleet.state == "done"


def test_an_agent_that_comes_during_the_last_step_gets_it_too() -> None:
    fleet = Fleet(2, RolloutPlan(AT_ONCE, 30.0, 0.2))
    fleet.think()
    fleet.agents["new"] = Member("new", connected=True)
    assert fleet.think() == {"new"}


def test_a_step_lasts_as_long_as_the_soak_even_if_agents_confirm_at_once() -> None:
    fleet = Fleet(2)
    fleet.confirms(*fleet.think())
    assert fleet.think(SOAK - 1) == set()
    assert fleet.why == "step 1 of 3: all confirmed, soaking"
    fleet.is_like("a000", attempts=50, refusals=50)
    fleet.think(1)
    assert fleet.state == "rolled-back"


@pytest.mark.parametrize("part", ["upload", "quota"])
def test_no_generation_is_to_blame_for_what_a_controller_that_starts_again_does_to_agents(part: str) -> None:
    fleet = Fleet(1, RolloutPlan(AT_ONCE, 0.0, 0.2))
    fleet.think()
    fleet.confirms("a000", trouble={part: "UNAVAILABLE"})
    fleet.think(1)
    assert fleet.state == "done"


def test_after_a_restart_of_the_controller_those_who_are_on_their_way_back_are_waited_for() -> None:
    fleet = Fleet(3, RolloutPlan(AT_ONCE, 0.0, 0.2))
    everybody = fleet.think()
    fleet.confirms("a000")
    for name in everybody:
        fleet.leaves(name)
    fleet.think(1)
    assert (fleet.state, fleet.why) == ("running", "step 1 of 1: waiting for a001, a002")
    fleet.returns("a001")
    fleet.says("a001", OfferPhase.REJECTED)
    fleet.think(1)
    assert fleet.state == "rolled-back"


def test_who_left_for_good_before_it_answered_is_not_waited_for_any_longer() -> None:
    fleet = Fleet(2, RolloutPlan(AT_ONCE, 0.0, 0.2))
    fleet.think()
    fleet.leaves("a001")
    fleet.confirms("a000")
    fleet.think(LOST_SECONDS - 1)
    assert fleet.state == "running"
    fleet.think(1)
    assert fleet.state == "done"


@given(st.integers(1, 300), st.lists(st.floats(0, 0.99), min_size=0, max_size=6, unique=True).map(sorted))
def test_whatever_the_plan_every_agent_gets_it_once_and_no_step_has_more_than_its_share(
    size: int, shares: list[float]
) -> None:
    plan = RolloutPlan((*shares, 1.0), 30.0, 0.2)
    fleet = Fleet(size, plan)
    had: set[str] = set()
    for _ in range(2 * len(plan.steps) + 2):
        given_now = fleet.think()
        assert not had & given_now
        had |= given_now
        assert len(had) <= max(1, -(-size * plan.steps[fleet.case.rollout.step] // 1))
        fleet.confirms(*given_now)
    assert had == set(fleet.agents)
    assert fleet.state == "done"
