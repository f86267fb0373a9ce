"""A hundred agents and what befalls them: the fleet keeps its limit in every window, and makes use of it.

`worst_excess` is the most that was admitted beyond rate times window, over all windows that there are; the limit is
kept when it is at most the burst. 1 is for the attempt that is just being made.
"""

from collections.abc import Callable
from itertools import pairwise
from statistics import mean, pstdev

import pytest

from controller.model import FleetLimit, Partition
from controller.quota.model import LIFE
from tests.controller.quota.fleet import KEY, LIMIT, Fleet, SimulatedAgent

RATE, BURST, AGENTS = 2000.0, 600.0, 100
FAIR = RATE / AGENTS
SETTLED = 10.0  # seconds after which a fleet that just began has its shares


def loaded(load: float, **changes: object) -> Fleet:
    """Calls come evenly at all agents, `load` times the limit."""
    fleet = Fleet(AGENTS, RATE, BURST, **changes)  # type: ignore[arg-type]
    for agent in fleet.agents:
        agent.demand = lambda _t: load * FAIR
    return fleet


def kept(fleet: Fleet) -> None:
    """The limit, in every window, and at every moment by what agents have in hand."""
    assert fleet.worst_excess() <= fleet.burst
    assert fleet.worst_leased <= 1.0


def waves(phase: float) -> Callable[[float], float]:
    """Six seconds of twenty with sixteen times the calls of the others."""
    return lambda t: 4 * FAIR if (t + phase) % 20 < 6 else FAIR / 4


def admitted_per_second(fleet: Fleet, agent: SimulatedAgent, seconds: float) -> float:
    before = agent.admitted
    fleet.run(fleet.now + seconds)
    return (agent.admitted - before) / seconds


def test_one_and_a_half_times_the_limit_uses_nine_tenths_of_it_and_all_agents_have_the_same() -> None:
    fleet = loaded(1.5)
    fleet.run(SETTLED)
    before = [agent.admitted for agent in fleet.agents]
    fleet.run(SETTLED + 20)
    got = [agent.admitted - earlier for agent, earlier in zip(fleet.agents, before, strict=True)]
    kept(fleet)
    assert 0.93 < fleet.use(SETTLED, SETTLED + 20) <= 0.96
    assert pstdev(got) / mean(got) < 0.03


def test_less_than_the_limit_passes_nearly_whole() -> None:
    fleet = loaded(0.6)
    fleet.run(SETTLED + 20)
    kept(fleet)
    assert fleet.use(SETTLED, SETTLED + 20) > 0.57


def test_a_share_that_one_agent_does_not_want_goes_to_those_who_do() -> None:
    fleet = Fleet(AGENTS, RATE, BURST)
    for n, agent in enumerate(fleet.agents):
        agent.demand = (lambda _t: 100.0) if n < 25 else (lambda _t: 2.0)
    fleet.run(SETTLED)
    small = fleet.agents[50]
    before = small.attempts, small.admitted
    busy = admitted_per_second(fleet, fleet.agents[0], 20)
    kept(fleet)
    assert busy > 2.5 * FAIR
    assert small.admitted - before[1] >= 0.85 * (small.attempts - before[0])


def test_calls_that_move_to_other_agents_find_their_shares_there_within_four_seconds() -> None:
    fleet = Fleet(AGENTS, RATE, BURST)

    def moving(n: int) -> Callable[[float], float]:
        return lambda t: 120.0 if n // 20 == int(t / 10) % 5 else 3.0

    for n, agent in enumerate(fleet.agents):
        agent.demand = moving(n)
    fleet.run(50)
    kept(fleet)
    for start, end in pairwise((10, 20, 30, 40, 50)):
        assert fleet.use(start + 4, end) > 0.8, start


@pytest.mark.parametrize("partition", list(Partition))
def test_agents_that_are_cut_off_go_on_as_they_were_told(partition: Partition) -> None:
    fleet = loaded(1.5, partition=partition)
    fleet.run(SETTLED)
    fleet.admitted.clear()  # with HOLD and OPEN the limit's own rate counts until there is a lease
    lost = fleet.agents[:30]
    fleet.cut(lost)
    fleet.run(SETTLED + LIFE + 0.1)
    alone = admitted_per_second(fleet, lost[0], 20)
    others = admitted_per_second(fleet, fleet.agents[-1], 10)
    match partition:
        case Partition.SAFE:
            kept(fleet)
            assert 0 < alone < 0.2 * FAIR
            assert others > 1.2 * FAIR  # what the lost ones had is theirs now
        case Partition.HOLD:
            kept(fleet)  # as long as the same controller leads, what they hold is theirs
            assert 0.8 * FAIR < alone < FAIR
            assert 0.8 * FAIR < others < FAIR
        case Partition.OPEN:
            assert lost[0].book.hit(*KEY, lost[0].clock(fleet.now)) is None  # the limit's own rate counts
    fleet.mend(lost)
    fleet.run(fleet.now + 5)
    assert 0.85 * FAIR < admitted_per_second(fleet, lost[0], 10) < 1.05 * FAIR


def test_everybody_cut_off_admits_what_was_set_apart() -> None:
    fleet = loaded(1.5)
    fleet.run(SETTLED)
    fleet.cut(fleet.agents)
    fleet.run(SETTLED + 30)
    kept(fleet)
    assert 0.1 < fleet.use(SETTLED + 4, SETTLED + 30) <= 0.2


def test_a_new_leader_hands_nothing_out_for_one_life_and_the_old_one_is_not_believed() -> None:
    fleet = loaded(1.5)
    fleet.run(SETTLED)
    fleet.change_leader(overlap=1.0)
    fleet.run(SETTLED + 1.0 + LIFE - 0.01)
    assert fleet.leaders[-1].quotas.grants == 0
    fleet.run(SETTLED + 30)
    kept(fleet)
    assert fleet.use(SETTLED + 7, SETTLED + 30) > 0.93
    assert {agent.exchange.epoch for agent in fleet.agents} == {2}


def test_agents_that_restart_begin_with_nothing_that_they_had_used_already() -> None:
    fleet = loaded(1.5)
    fleet.run(SETTLED)
    for second in range(20):
        for agent in fleet.agents[second::20]:
            fleet.restart(agent, down=0.1)
        fleet.run(SETTLED + second + 1)
    fleet.run(SETTLED + 25)
    kept(fleet)
    assert fleet.use(SETTLED, SETTLED + 25) > 0.8


def test_an_agent_that_restarts_while_it_is_cut_off_has_its_safe_rate_at_once() -> None:
    fleet = loaded(1.5)
    fleet.run(SETTLED)
    agent = fleet.agents[0]
    fleet.cut([agent])
    fleet.run(SETTLED + 1)
    fleet.restart(agent)
    fleet.run(SETTLED + 2)
    assert 0 < admitted_per_second(fleet, agent, 20) < 0.2 * FAIR
    kept(fleet)


def test_everything_at_once_keeps_the_limit() -> None:
    """Answers that are lost, late or both; agents that come, go and crash; three leaders; clocks that differ."""
    for seed in (1, 2, 3):
        fleet = loaded(1.5, seed=seed)
        fleet.loss = 0.2
        fleet.delay = lambda fleet=fleet: fleet.random.expovariate(4)  # type: ignore[misc]
        for agent in fleet.agents:
            agent.demand = waves(fleet.random.uniform(0, 20))
        for second in range(35):
            some = fleet.random.sample(fleet.agents, 5)
            fleet.cut(some)
            fleet.mend(fleet.random.sample(fleet.agents, 30))
            fleet.restart(fleet.random.choice([agent for agent in fleet.agents if agent.up]), fleet.random.random())
            if second in (12, 24):
                fleet.change_leader(overlap=fleet.random.random())
            fleet.run(second + 1)
        kept(fleet)
        assert len(fleet.admitted) > 5000


@pytest.mark.parametrize(("rate", "burst"), [(2.0, 1.0), (10.0, 3.0), (100.0, 33.0), (1000.0, 1.0)])
def test_a_limit_too_small_for_all_is_had_by_a_few_in_turn_and_never_exceeded(rate: float, burst: float) -> None:
    fleet = Fleet(AGENTS, rate, burst)
    for agent in fleet.agents:
        agent.demand = lambda _t: 0.3
    fleet.run(60)
    kept(fleet)
    shares = [agent.book._shares[KEY].lease for agent in fleet.agents]
    assert 1 <= sum(lease.rate > 0 for lease in shares) <= burst
    if burst > 1:
        assert sum(agent.admitted > 0 for agent in fleet.agents) > 1.5 * burst  # others had their turn


def test_a_limit_that_an_operator_lowers_holds_after_one_life() -> None:
    fleet = loaded(1.5)
    fleet.run(SETTLED)
    fleet.leaders[-1].quotas.set_limits([FleetLimit(LIMIT, RATE / 4, BURST / 4)])
    fleet.run(SETTLED + LIFE + 1.5)
    fleet.admitted.clear()
    fleet.run(SETTLED + 30)
    assert fleet.worst_excess(RATE / 4) <= BURST / 4
    assert fleet.use(SETTLED + LIFE + 1.5, SETTLED + 30) > 0.9 / 4


def test_a_thousand_agents_are_divided_among() -> None:
    fleet = Fleet(1000, RATE * 4, BURST * 10)
    for agent in fleet.agents:
        agent.demand = lambda _t: 12.0
    fleet.run(12)
    kept(fleet)
    assert fleet.use(8, 12) > 0.9
