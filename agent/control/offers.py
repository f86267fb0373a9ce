"""What becomes of offers: validate, warm, swap, soak, confirm; or refuse, or go back. No I/O; time is an argument.

One offer may be in the making while another soaks and a third is what was confirmed last:

    offered --prepared--> applied, soaking --well until the end, kept on disk--> confirmed
       |  \\--postponed: the link or the disk, not the offer; again later
       \\--refused: never again            \\--worse: back to what was confirmed, never again

Whoever owns this performs the effects in order and says how they went. Every offer is answered, and every answer that
may have been lost is given again. `now` is monotonic seconds. Must not know files, streams or what a policy says.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from agent.control.messages import Code, FieldViolation, InForce, Offer, OfferReport, Phase, Problem
from agent.control.soak import History, Soak, Vitals
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

REJECTIONS_MAX: Final = 64
"""Generations that are remembered as refused; the controller remembers them too."""

ENDS_MAX: Final = 3
"""So often may the process end, by whatever, while a generation is prepared or soaks; then that is held to be why."""

FLOORS_MAX: Final = 256
"""Lists whose generation is remembered after no policy needs them any more; together with those that are needed."""

AGAIN_FIRST: Final = 1.0
AGAIN_LONGEST: Final = 60.0
"""Seconds between two attempts to prepare an offer that the link or the disk kept from being prepared."""


@dataclass(slots=True)
class _Candidate:
    """In the making. `repair`: it is what is in force already, and its lists on disk are broken."""

    offer: Offer
    phase: Phase = Phase.RECEIVED
    repair: bool = False
    again_at: float | None = None
    delay: float = AGAIN_FIRST
    why: str = ""


@dataclass(slots=True)
class _Trial:
    """In force, soaking. `keeping`: it is good, and goes to disk."""

    offer: Offer
    soak: Soak
    keeping: bool = False
    again_at: float = 0.0
    why: str = ""


class Offers:
    """The machine. `confirmed` is what was found on disk and is in force; None: the agent decides by a file of its own.

    `in_force` of reports is what the machine believes; `strayed` says that somebody has put another policy into force.
    """

    def __init__(self, confirmed: Offer | None, journal: Journal) -> None:
        self._confirmed = confirmed
        self._journal = journal
        self._candidate: _Candidate | None = None
        self._trial: _Trial | None = None
        self._adopting: Offer | None = None  # confirmed content under a new number, on its way to disk
        self._begun_here = 0  # the generation that this process has begun last
        self._last: OfferReport | None = None
        self._history = History()
        self.strayed = False

    # --- what is asked

    @property
    def active(self) -> InForce:
        """What is in force."""
        if self.strayed:
            return InForce()
        offer = self._trial.offer if self._trial is not None else self._confirmed
        return InForce() if offer is None else InForce(offer.generation, offer.sha256)

    @property
    def confirmed(self) -> Offer | None:
        """The last known good."""
        return self._confirmed

    @property
    def soaking(self) -> Offer | None:
        """What is on trial."""
        return None if self._trial is None else self._trial.offer

    @property
    def in_the_making(self) -> Offer | None:
        """What is being prepared."""
        return None if self._candidate is None else self._candidate.offer

    @property
    def rejected(self) -> tuple[int, ...]:
        """Generations that are not taken again."""
        return tuple(sorted(self._journal.rejected))

    @property
    def floors(self) -> Mapping[tuple[str, str], int]:
        """The confirmed generation of each list."""
        return self._journal.floors

    def trouble(self) -> str:
        """What keeps an offer from its way; "" nothing."""
        if self._trial is not None and self._trial.why:
            return f"generation {self._trial.offer.generation} cannot be kept on disk: {self._trial.why}"
        if self._candidate is not None and self._candidate.why:
            return f"generation {self._candidate.offer.generation} waits: {self._candidate.why}"
        if self.strayed:
            return "decides by a policy that was applied on this host"
        return ""

    def again(self) -> list[Effect]:
        """After a new session: the last answer may have been lost."""
        if self._last is None:
            return []
        return [Report(replace(self._last, active=self.active))]

    # --- what comes

    def offer(self, offer: Offer) -> list[Effect]:
        """An offer has come."""
        if (fault := self._fault_of(offer)) is not None:
            return fault
        candidate, trial, confirmed = self._candidate, self._trial, self._confirmed
        if candidate is not None and candidate.offer == offer and not candidate.repair:
            candidate.again_at = None if candidate.again_at is None else 0.0  # the link is there again: try at once
            return [self._report(offer, candidate.phase)]
        if trial is not None and trial.offer.content == offer.content:
            renumber: list[Effect] = [] if trial.offer.generation == offer.generation else [Reinstate(offer)]
            trial.offer = replace(offer, soak=trial.offer.soak)
            return [*self._give_up(), *renumber, self._report(offer, Phase.APPLIED)]
        if confirmed is not None and confirmed.content == offer.content:
            return self._the_same_again(offer)
        ends = self._ends_of(offer)
        if ends >= ENDS_MAX and self._begun_here != offer.generation:
            why = f"the agent ended {ends} times while this generation was prepared or soaked"
            return self._reject(offer, Phase.ROLLED_BACK, Problem(Code.ABORTED, why))
        self._candidate = _Candidate(offer)
        if self._begun_here != offer.generation:
            self._begun_here = offer.generation
            self._journal = replace(self._journal, begun=(offer.generation, ends + 1))
        return [self._report(offer, Phase.RECEIVED), Note(self._journal), Prepare(offer)]

    def _fault_of(self, offer: Offer) -> list[Effect] | None:
        """What is wrong with it at first sight."""
        refused = self._journal.rejected.get(offer.generation)
        if refused is not None:
            if refused.sha256 == offer.sha256:
                return [self._report(offer, refused.phase, refused.problem)]
            return [self._report(offer, Phase.REJECTED, _reused(offer))]
        for other in (self._confirmed, self.soaking):
            if other is not None and other.generation == offer.generation and other.content != offer.content:
                return [self._report(offer, Phase.REJECTED, _reused(offer))]
        if offer.generation == 0:
            return [self._report(offer, Phase.REJECTED, _invalid("generation", "is missing"))]
        if hashlib.sha256(offer.policy).digest() != offer.sha256:
            return self._reject(offer, Phase.REJECTED, _invalid("sha256", "is not that of the policy"))
        return None

    def _the_same_again(self, offer: Offer) -> list[Effect]:
        """What was confirmed: maybe under another number, or in place of what is on trial or was applied by hand."""
        assert self._confirmed is not None
        effects = self._give_up()
        renumbered = offer.generation != self._confirmed.generation
        if self._trial is not None or self.strayed or renumbered:
            effects.append(Reinstate(offer))
        self._trial, self.strayed = None, False
        if not renumbered:
            return [*effects, self._report(offer, Phase.CONFIRMED)]
        self._adopting = offer
        return [*effects, self._report(offer, Phase.RECEIVED), Keep(offer)]

    # --- how effects went

    def prepared(self, offer: Offer) -> list[Effect]:
        """It compiles, and all its lists are here and intact."""
        candidate = self._candidate
        if candidate is None or candidate.offer != offer:
            return []
        if candidate.repair:
            self._candidate = None
            return [Reinstate(offer)]
        candidate.phase = Phase.VALIDATED
        return [self._report(offer, Phase.VALIDATED), Apply(offer)]

    def refused(self, offer: Offer, problem: Problem) -> list[Effect]:
        """It cannot be taken, now or ever."""
        candidate = self._candidate
        if candidate is None or candidate.offer != offer:
            return []
        self._candidate = None
        if candidate.repair:
            return []  # what is confirmed was good: only its files are not, and the next look finds them broken again
        return self._reject(offer, Phase.REJECTED, problem)

    def postponed(self, offer: Offer, why: str, now: float, *, progress: bool = False) -> list[Effect]:
        """The link or the disk keep it from being prepared. `progress`: it is further than it was."""
        candidate = self._candidate
        if candidate is not None and candidate.offer == offer:
            candidate.why = why
            candidate.delay = AGAIN_FIRST if progress else candidate.delay
            candidate.again_at = now + candidate.delay
            candidate.delay = min(candidate.delay * 2, AGAIN_LONGEST)
        return []

    def applied(self, offer: Offer, vitals: Vitals, now: float) -> list[Effect]:
        """It is in force."""
        self._candidate = None
        self.strayed = False
        self._trial = _Trial(offer, Soak(vitals, self._history.before(now), now))
        return [self._report(offer, Phase.APPLIED), SayHealth()]

    def kept(self, offer: Offer) -> list[Effect]:
        """It is the last known good on disk."""
        trial = self._trial
        if self._adopting == offer:
            self._adopting = None
        elif trial is not None and trial.offer.content == offer.content:
            if trial.offer.generation != offer.generation:
                return [Keep(trial.offer)]  # it got another number meanwhile
            self._trial = None
        elif self._confirmed is None or self._confirmed.content != offer.content:
            return []  # another one took its place; whatever is kept next replaces it
        again = self._confirmed == offer
        self._confirmed = offer
        self._journal = replace(self._journal, floors=self._floors_with(offer), begun=self._begun_but(offer))
        return [Note(self._journal), *([] if again else self._said_confirmed(offer))]

    def not_kept(self, offer: Offer, why: str, now: float) -> list[Effect]:
        """The disk did not take it: until it does, it is not confirmed."""
        if self._adopting == offer:
            self._adopting = None  # the same content is there under its old number
            return [Note(self._journal), *self._said_confirmed(offer)]
        trial = self._trial
        if trial is not None and trial.offer.content == offer.content:
            trial.keeping = False
            trial.again_at, trial.why = now + AGAIN_FIRST * 5, why
        return []

    def damaged(self, *, slots: bool, lists: bool) -> list[Effect]:
        """What was found on disk is not what was put there."""
        confirmed = self._confirmed
        if confirmed is None:
            return []
        effects: list[Effect] = [Keep(confirmed)] if slots and self._adopting is None else []
        if lists and self._candidate is None and self._trial is None:
            self._candidate = _Candidate(confirmed, repair=True, why="a list on disk is damaged, and is fetched again")
            effects.append(Prepare(confirmed))
        return effects

    def ending(self) -> list[Effect]:
        """The process is about to end as it should: what was begun did not end it."""
        generation, ends = self._journal.begun
        if not generation or not ends:
            return []
        self._journal = replace(self._journal, begun=(generation, ends - 1))
        return [Note(self._journal)]

    # --- time

    def tick(self, vitals: Vitals, now: float) -> list[Effect]:
        """About once a second."""
        self._history.look(now, vitals)
        effects: list[Effect] = []
        candidate = self._candidate
        if candidate is not None and candidate.again_at is not None and now >= candidate.again_at:
            candidate.again_at = None
            effects.append(Prepare(candidate.offer))
        return effects + self._soak(vitals, now)

    def _soak(self, vitals: Vitals, now: float) -> list[Effect]:
        trial = self._trial
        if trial is None or trial.keeping or now < trial.again_at:
            return []
        if not trial.why and (why := trial.soak.worse(vitals, now)):
            self._trial = None
            back: list[Effect] = [Reinstate(self._confirmed)]
            return back + self._reject(trial.offer, Phase.ROLLED_BACK, Problem(Code.ABORTED, why)) + [SayHealth()]
        if now - trial.soak.since < trial.offer.soak:
            return []
        trial.keeping = True
        return [SayHealth(), Keep(trial.offer)]

    # --- pieces

    def _reject(self, offer: Offer, phase: Phase, problem: Problem) -> list[Effect]:
        rejected = {**self._journal.rejected, offer.generation: Rejection(offer.sha256, phase, problem)}
        for generation in sorted(rejected)[: max(0, len(rejected) - REJECTIONS_MAX)]:
            del rejected[generation]
        self._journal = replace(self._journal, rejected=rejected, begun=self._begun_but(offer))
        return [Note(self._journal), self._report(offer, phase, problem)]

    def _report(self, offer: Offer, phase: Phase, problem: Problem | None = None) -> Report:
        self._last = OfferReport(offer.generation, offer.sha256, phase, problem, self.active)
        return Report(self._last)

    def _said_confirmed(self, offer: Offer) -> list[Effect]:
        """Unless another one has come into force while this went to disk: then the word is about that one."""
        return [] if self._trial is not None else [self._report(offer, Phase.CONFIRMED)]

    def _give_up(self) -> list[Effect]:
        candidate, self._candidate = self._candidate, None
        return [] if candidate is None else [GiveUp()]

    def _floors_with(self, offer: Offer) -> dict[tuple[str, str], int]:
        # Never down: bytes that are here already are not looked at again, whatever generation comes with them.
        floors = self._journal.floors
        needed = {(m.kind, m.name): max(m.generation, floors.get((m.kind, m.name), 0)) for m in offer.manifests}
        others = {key: generation for key, generation in floors.items() if key not in needed}
        return {**dict(list(others.items())[-FLOORS_MAX:]), **needed}

    def _ends_of(self, offer: Offer) -> int:
        generation, ends = self._journal.begun
        return ends if generation == offer.generation else 0

    def _begun_but(self, offer: Offer) -> tuple[int, int]:
        """What was begun, without this one."""
        return (0, 0) if self._journal.begun[0] == offer.generation else self._journal.begun


def _invalid(field: str, reason: str) -> Problem:
    return Problem(Code.INVALID_ARGUMENT, f"{field}: {reason}", (FieldViolation(field, reason),))


def _reused(offer: Offer) -> Problem:
    reason = f"generation {offer.generation} was another policy before, and generations do not change"
    return Problem(Code.FAILED_PRECONDITION, reason, (FieldViolation("generation", reason),))
