"""The leader's shares: whatever comes, in any order, answered or lost, no moment has more than the limit in use."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.model import FleetLimit, Partition
from controller.quota import quotas as module
from controller.quota.model import DRIFT, LIFE, NOTHING, Amount, Answer, Demand, Question, Rate
from controller.quota.quotas import Quotas

RATE, BURST = 100.0, 30.0
OF_POLICY = Rate(RATE, BURST)


def leading(*agents: str, rate: float = RATE, burst: float = BURST, epoch: int = 1) -> Quotas:
    """A leader that has waited long enough, at time 0."""
    quotas = Quotas()
    quotas.set_limits([FleetLimit("all", rate, burst)])
    quotas.set_agents(agents)
    quotas.begin(epoch, -10.0)
    return quotas


def question(agent: str, sequence: int, demand: float, applied: int = 0, **changes: object) -> Question:
    fields = {"limit": "all", "key": "*", "rate": demand, "policy": OF_POLICY} | changes
    return Question(agent, sequence, applied, (Demand(**fields),))  # type: ignore[arg-type]


def share(answer: Answer) -> Amount:
    return answer.grants[0].share


class Model:
    """An agent as it may be at worst: it follows what it heard last, to the end of its lease, and then falls."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sequence = self.applied = 0
        self.share = self.safe = NOTHING
        self.until = -1.0

    def ask(self, quotas: Quotas, now: float, demand: float, heard: bool) -> None:
        self.sequence += 1
        answer = quotas.ask(question(self.name, self.sequence, demand, self.applied, safe=self.safe), now)
        if heard and answer.grants:
            self.applied = self.sequence
            grant = answer.grants[0]
            self.share, self.safe = grant.share, grant.safe
            self.until = inf if grant.partition is Partition.HOLD else now + LIFE

    def uses(self, now: float) -> Amount:
        return self.share.most(self.safe) if now < self.until else self.safe


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 7),  # who
        st.sampled_from([0.0, 0.5, 5.0, 30.0, 200.0]),  # what he wants
        st.booleans(),  # whether the answer arrives
        st.floats(0.0, 1.5),  # how long nothing happens afterwards
    ),
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(EVENTS, st.sampled_from([1.0, 3.0, 7.5, 30.0, 400.0]), st.sampled_from(list(Partition)))
def test_no_moment_has_more_than_the_limit_in_use(
    events: list[tuple[int, float, bool, float]], burst: float, partition: Partition
) -> None:
    agents = [Model(f"a{n}") for n in range(8)]
    quotas = leading(*(agent.name for agent in agents), burst=burst)
    quotas.set_limits([FleetLimit("all", RATE, burst, partition)])
    now = 0.0
    for who, demand, heard, pause in events:
        agents[who].ask(quotas, now, demand, heard)
        for moment in (now, now + pause / 2, now + pause):
            uses = [agent.uses(moment) for agent in agents]
            assert sum(use.rate for use in uses) <= RATE * (1 + 1e-9)
            assert sum(use.burst for use in uses) <= burst * (1 + 1e-9)
        now += pause


@settings(max_examples=50, deadline=None)
@given(EVENTS)
def test_a_limit_that_was_lowered_holds_once_every_lease_has_ended(
    events: list[tuple[int, float, bool, float]],
) -> None:
    agents = [Model(f"a{n}") for n in range(8)]
    quotas = leading(*(agent.name for agent in agents))
    now = 0.0
    for agent in agents:
        agent.ask(quotas, now, 50.0, heard=True)
    quotas.set_limits([FleetLimit("all", RATE / 5, BURST / 5)])
    for who, demand, _, pause in events:
        now += pause
        for agent in agents:  # nobody is cut off
            agent.ask(quotas, now, demand if agent is agents[who] else 1.0, heard=True)
        if now > LIFE * 1.1:
            assert sum(agent.uses(now).rate for agent in agents) <= RATE / 5 * (1 + 1e-9)


def test_a_new_leader_hands_out_nothing_for_one_life() -> None:
    quotas = Quotas()
    quotas.set_limits([FleetLimit("all", RATE, BURST)])
    quotas.begin(4, 100.0)
    assert quotas.ask(question("a", 1, 10), 100.0 + LIFE) == Answer("a", 1, 4)
    assert share(quotas.ask(question("a", 2, 10), 100.0 + LIFE * (1 + DRIFT))).rate > 0


def test_who_does_not_lead_says_so() -> None:
    quotas = leading("a")
    quotas.end()
    assert quotas.ask(question("a", 1, 10), 0.0) == Answer("a", 1, 0)


def test_more_is_given_only_when_others_are_known_to_have_less() -> None:
    quotas = leading("a", "b")
    both = [quotas.ask(question(agent, 1, 100.0), 0.0) for agent in "ab"]
    assert share(both[0]).rate > 60  # nobody else had asked
    quotas.ask(question("a", 2, 10.0, applied=1), 1.0)
    before = share(quotas.ask(question("b", 2, 100.0, applied=1), 1.2)).rate
    quotas.ask(question("a", 3, 10.0, applied=2), 1.4)  # a says that it has less now
    after = share(quotas.ask(question("b", 3, 100.0, applied=2), 1.6)).rate
    assert before < 40
    assert after > 75


def test_what_an_agent_falls_to_is_kept_for_it_while_it_is_silent() -> None:
    quotas = leading("a", "b")
    answer = quotas.ask(question("a", 1, 100.0), 0.0)
    assert answer.grants[0].safe.rate == RATE * 0.2 / 2
    last = NOTHING
    for second in range(1, 30):
        last = share(quotas.ask(question("b", second, 1000.0, applied=second - 1), float(second)))
    assert last.rate == pytest.approx(RATE * 0.95 / (1 + DRIFT) - RATE * 0.1)
    quotas.set_agents(["b"])  # a is revoked
    last = share(quotas.ask(question("b", 30, 1000.0, applied=29), 30.0))
    assert last.rate == pytest.approx(RATE * 0.95 / (1 + DRIFT))


def test_an_agent_that_has_not_asked_yet_may_have_been_told_by_another_leader_what_to_fall_to() -> None:
    quotas = leading("a", "b", "c", "d")
    quotas.ask(question("a", 1, 1000.0), 0.0)
    last = share(quotas.ask(question("a", 2, 1000.0, applied=1), 1.0))
    assert last.rate == pytest.approx(RATE * 0.95 / (1 + DRIFT) - RATE * 0.2)


def test_a_share_that_is_not_asked_for_any_more_is_free_when_its_lease_has_ended() -> None:
    quotas = leading("a", "b")
    quotas.ask(question("a", 1, 100.0), 0.0)
    quotas.ask(Question("a", 2, 1, ()), 1.0)
    assert share(quotas.ask(question("b", 1, 1000.0), LIFE + 0.1)).rate == pytest.approx(RATE * 0.95 / (1 + DRIFT))


def test_during_a_rollout_the_lowest_of_the_policies_limits_holds_unless_an_operator_has_set_one() -> None:
    quotas = leading("a", "b")
    quotas.set_limits([])
    quotas.ask(question("a", 1, 1000.0), 0.0)
    quotas.ask(question("b", 1, 1000.0, policy=Rate(40.0, 10.0)), 0.0)
    (view,) = quotas.views(0.5)
    quotas.ask(question("a", 2, 1000.0, applied=1), 0.5)
    (view,) = quotas.views(0.5)
    assert view.limit.rate == 40.0
    quotas.set_limits([FleetLimit("all", 70.0, 10.0)])
    (view,) = quotas.views(0.6)
    assert (view.limit.rate, view.agents, view.keys) == (70.0, 2, 1)


def test_keys_beyond_the_bound_get_nothing_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEYS_MAX", 3)
    quotas = leading("a")
    demands = tuple(Demand("all", f"trunk-{n}", 1.0, OF_POLICY) for n in range(5))
    answer = quotas.ask(Question("a", 1, 0, demands), 0.0)
    assert len(answer.grants) == 3
    assert quotas.overflows == 2
    quotas.ask(Question("a", 2, 1, ()), 1.0)
    quotas.ask(Question("a", 3, 2, ()), 20.0)  # and they go when nobody asks for them
    assert len(quotas.ask(Question("a", 4, 3, demands[3:]), 20.1).grants) == 2


def test_open_limits_set_nothing_apart() -> None:
    quotas = leading("a")
    quotas.set_limits([FleetLimit("all", RATE, BURST, Partition.OPEN)])
    grant = quotas.ask(question("a", 1, 10.0), 0.0).grants[0]
    assert (grant.safe, grant.partition) == (NOTHING, Partition.OPEN)
