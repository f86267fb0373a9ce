"""A fleet on simulated time: real shares at the leader, real leases at the agents, and a network, clocks and crashes
between them that behave as badly as the test wants.

Times are true seconds; each agent has a clock of its own that started somewhere else and runs faster or slower.
"""

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Any

from agent.control.quota import Granted, QuotaAsk, QuotaExchange, QuotaReply
from agent.policy.leases import FleetRate, Key, LeaseBook, Safe
from agent.policy.leases import Partition as AgentPartition
from controller.model import FleetLimit, Partition
from controller.quota.model import LIFE, REFRESH, Amount, Answer, Demand, Question, Rate
from controller.quota.quotas import Quotas

LIMIT = "fleet"
KEY: Key = (LIMIT, "*")
PATIENCE = 1.5  # seconds that an agent waits for an answer


@dataclass
class Leader:
    """One controller. `until`: it believes to lead, and answers, up to then."""

    quotas: Quotas
    until: float = inf


@dataclass
class SimulatedAgent:
    """`drift` is how much faster its clock runs; `demand` its calls per second, as a function of time."""

    name: str
    drift: float
    start: float
    demand: Callable[[float], float]
    book: LeaseBook = field(default_factory=LeaseBook)
    exchange: QuotaExchange = field(init=False)
    disk: dict[Key, Safe] = field(default_factory=dict)
    connected: bool = True
    up: bool = True
    hurried: bool = False
    life: int = 0  # counts restarts
    attempts: int = 0
    admitted: int = 0

    def __post_init__(self) -> None:
        self.exchange = QuotaExchange(self.book)

    def clock(self, t: float) -> float:
        return self.start + t * (1 + self.drift)


class Fleet:
    """Runs events in order of time, and keeps the moment of every admitted attempt."""

    def __init__(
        self, agents: int, rate: float, burst: float, seed: int = 1, partition: Partition = Partition.SAFE
    ) -> None:
        self.random = random.Random(seed)
        self.rate, self.burst, self.partition = rate, burst, partition
        self.now = 0.0
        self.admitted: list[float] = []
        self.attempts = 0
        self.questions = 0
        self.delay: Callable[[], float] = lambda: self.random.expovariate(50)  # one way, seconds
        self.loss = 0.0
        self.agents = [self._agent(n) for n in range(agents)]
        self.leaders = [self._leader(1, 0.0)]
        self.worst_leased = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = count()
        for agent in self.agents:
            self._boot(agent)
            self.at(self.random.uniform(0, REFRESH), self._ask, agent, agent.life)
            self.at(0.0, self._next_attempt, agent)
        self.at(0.0, self._look)

    def _agent(self, n: int) -> SimulatedAgent:
        drift, start = self.random.uniform(-5e-4, 5e-4), self.random.uniform(0, 1e6)
        return SimulatedAgent(f"agent-{n:03}", drift, start, lambda _t: 0.0)

    def _leader(self, epoch: int, t: float) -> Leader:
        quotas = Quotas()
        quotas.set_limits([FleetLimit(LIMIT, self.rate, self.burst, self.partition)])
        quotas.set_agents(agent.name for agent in self.agents)
        quotas.begin(epoch, t)
        return Leader(quotas)

    # --- what tests do

    def at(self, t: float, work: Callable[..., None], *arguments: Any) -> None:
        """Do this then."""
        heapq.heappush(self._events, (t, next(self._number), work, arguments))

    def run(self, until: float) -> None:
        """Let time go by."""
        while self._events and self._events[0][0] <= until:
            self.now, _, work, arguments = heapq.heappop(self._events)
            work(*arguments)
        self.now = until

    def cut(self, agents: Iterable[SimulatedAgent]) -> None:
        """They reach no controller; what is on the way is lost."""
        for agent in agents:
            agent.connected = False

    def mend(self, agents: Iterable[SimulatedAgent]) -> None:
        """They reach it again."""
        for agent in agents:
            agent.connected = True

    def restart(self, agent: SimulatedAgent, down: float = 0.5) -> None:
        """kill -9, and up again a while later, with what was on disk."""
        agent.up = False
        agent.life += 1
        self.at(self.now + down, self._up, agent)

    def change_leader(self, overlap: float = 0.0) -> None:
        """Another controller leads; the old one answers for `overlap` seconds more."""
        old = self.leaders[-1]
        old.until = self.now + overlap
        # As the election has it: a term does not begin before the last leader knows that it does not lead.
        self.at(self.now + overlap, self._succeed, old.quotas.epoch + 1)

    def _succeed(self, epoch: int) -> None:
        self.leaders.append(self._leader(epoch, self.now))

    # --- what is measured

    def worst_excess(self, rate: float | None = None) -> float:
        """The most, over all windows, that was admitted beyond rate times window: must be at most the burst."""
        rate = self.rate if rate is None else rate
        worst, lowest = -inf, inf
        for n, t in enumerate(sorted(self.admitted)):
            lowest = min(lowest, n - rate * t)
            worst = max(worst, n + 1 - rate * t - lowest)
        return worst

    def use(self, start: float, end: float) -> float:
        """Part of the limit that was admitted, on average."""
        return sum(start <= t < end for t in self.admitted) / (self.rate * (end - start))

    def held(self) -> Amount:
        """What all agents may use at this moment, by their own clocks."""
        rates = [a.book._shares[KEY].current(a.clock(self.now)) for a in self.agents if a.up and KEY in a.book._shares]
        return Amount(sum(rate for rate, _ in rates), sum(burst for _, burst in rates))

    def _look(self) -> None:
        self.worst_leased = max(self.worst_leased, self.held().rate / self.rate)
        self.at(self.now + 0.01, self._look)

    # --- agents

    def _boot(self, agent: SimulatedAgent) -> None:
        agent.book = LeaseBook()
        agent.book.attached = True
        agent.book.restore(agent.disk)
        partition = AgentPartition(self.partition.value)
        agent.book.follow({LIMIT: FleetRate(self.rate, self.burst, partition)}, [KEY])
        agent.exchange = QuotaExchange(agent.book)
        agent.book.on_need = lambda: self._hurry(agent, agent.life)

    def _hurry(self, agent: SimulatedAgent, life: int) -> None:
        if life == agent.life and not agent.hurried:
            agent.hurried = True
            self._schedule(agent, urgent=True)

    def _schedule(self, agent: SimulatedAgent, *, urgent: bool) -> None:
        due = agent.exchange.next_at(self.random.random(), urgent=urgent)
        after = (due - agent.clock(self.now)) / (1 + agent.drift)
        self.at(self.now + min(max(after, 0.0), REFRESH), self._ask, agent, agent.life)

    def _up(self, agent: SimulatedAgent) -> None:
        agent.up = True
        self._boot(agent)
        self._ask(agent, agent.life)

    def _next_attempt(self, agent: SimulatedAgent) -> None:
        demand = agent.demand(self.now)
        if demand <= 0:
            self.at(self.now + 0.1, self._next_attempt, agent)
            return
        if agent.up:
            self._attempt(agent)
        self.at(self.now + self.random.expovariate(demand), self._next_attempt, agent)

    def _attempt(self, agent: SimulatedAgent) -> None:
        self.attempts += 1
        agent.attempts += 1
        found = agent.book.hit(*KEY, agent.clock(self.now))
        if found is None:
            self.admitted.append(self.now)
        elif found[1]:
            found[0].take()
            agent.admitted += 1
            self.admitted.append(self.now)

    def _ask(self, agent: SimulatedAgent, life: int) -> None:
        early = agent.clock(self.now) < agent.exchange.next_at(0.0, urgent=agent.hurried)
        if life != agent.life or not agent.up or early:
            return
        agent.hurried = False
        ask = agent.exchange.ask(agent.clock(self.now))
        self._schedule(agent, urgent=False)
        self.questions += 1
        if self._passes(agent):
            self.at(self.now + self.delay(), self._heard, agent, life, ask)

    def _heard(self, agent: SimulatedAgent, life: int, ask: QuotaAsk) -> None:
        leader = next((leader for leader in self.leaders if self.now < leader.until), None)
        if leader is None or not agent.connected:
            return
        answer = leader.quotas.ask(question_of(agent.name, ask), self.now)
        if self._passes(agent):
            self.at(self.now + self.delay(), self._told, agent, life, reply_of(answer))

    def _told(self, agent: SimulatedAgent, life: int, reply: QuotaReply) -> None:
        if life != agent.life or not agent.connected or not agent.up:
            return
        if agent.exchange.take(reply, agent.clock(self.now)):
            agent.disk = agent.book.safe()
            agent.exchange.saved(reply.sequence)

    def _passes(self, agent: SimulatedAgent) -> bool:
        return agent.connected and self.random.random() >= self.loss


def question_of(agent: str, ask: QuotaAsk) -> Question:
    """As the wire carries it."""
    demands = tuple(
        Demand(
            d.limit,
            d.key,
            d.rate,
            Rate(d.of.rate, d.of.burst, Partition(d.of.partition.value)),
            Amount(d.safe.rate, d.safe.burst),
        )
        for d in ask.demands
    )
    return Question(agent, ask.sequence, ask.applied, demands)


def reply_of(answer: Answer) -> QuotaReply:
    """As the wire carries it."""
    grants = tuple(
        Granted(
            g.limit,
            g.key,
            g.share.rate,
            g.share.burst,
            LIFE,
            Safe(g.safe.rate, g.safe.burst, AgentPartition(g.partition.value)),
        )
        for g in answer.grants
    )
    return QuotaReply(answer.sequence, answer.epoch, grants)
