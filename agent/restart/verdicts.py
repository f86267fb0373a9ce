"""Decisions on call attempts as JSON, and back: so that a copy that comes after a restart has the verdict of the first.

Knows verdicts; must not know files or tables. A decision comes back under the policy in force then, which answers for
what is added to the call.
"""

import json
from collections.abc import Sequence
from typing import Any, Final, cast

from agent.model import ALLOW, DROP, Action, Allow, Answer, Category, Drop, Refuse, Verdict
from agent.policy.policy import Policy
from agent.screening import PASSED, Judged

DIFFERENT_MAX: Final = 16_384
"""Different decisions that are kept, some 3 MB. Reasons name numbers, so a flood makes many; a copy of a call whose
decision is not kept is decided again."""

_ALLOW: Final = "allow"
_DROP: Final = "drop"


def write_verdicts(decisions: Sequence[object]) -> tuple[bytes, list[int]]:
    """The different ones, and for each decision its place among them from 1, 0 where it is not kept."""
    known: dict[tuple[Verdict, tuple[Verdict, ...]], int] = {}
    places = []
    for decision in decisions:
        verdict, shadow, _ = cast("Judged", decision)
        key = (verdict, shadow)
        place = known.get(key, 0)
        if not place and len(known) < DIFFERENT_MAX:
            place = known[key] = len(known) + 1
        places.append(place)
    return json.dumps([[_verdict_to(one) for one in (verdict, *shadow)] for verdict, shadow in known]).encode(), places


def read_verdicts(data: bytes, policy: Policy) -> list[Judged]:
    """The different ones. Raises ValueError for what `write_verdicts` did not write."""
    try:
        found: list[Judged] = []
        for verdict, *shadow in json.loads(data):
            found.append((_verdict_of(verdict), tuple(map(_verdict_of, shadow)), policy))
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no verdicts: {error}") from error
    return found


def _verdict_to(verdict: Verdict) -> list[Any]:
    return [_action_to(verdict.action), verdict.rule, verdict.category.value, verdict.why]


def _action_to(action: Action) -> Any:
    match action:
        case Allow():
            return _ALLOW
        case Drop():
            return _DROP
        case Refuse(answer):
            return [answer.code, answer.phrase, answer.headers]


def _verdict_of(kept: Any) -> Verdict:
    action, rule, category, why = kept
    verdict = Verdict(_action_of(action), str(rule), Category(category), str(why))
    return PASSED if verdict == PASSED else verdict  # the hot path asks whether it is that one


def _action_of(kept: Any) -> Action:
    if kept in (_ALLOW, _DROP):
        return ALLOW if kept == _ALLOW else DROP
    code, phrase, headers = kept
    return Refuse(Answer(int(code), str(phrase), tuple((str(name), str(value)) for name, value in headers)))
