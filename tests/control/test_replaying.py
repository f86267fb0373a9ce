"""What another policy would have decided about recorded calls."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from agent.control.artifacts import ArtifactFiles
from agent.control.preparing import Refused
from agent.control.replaying import compare, observation_of
from agent.control.shadow import Shadow
from agent.identity.model import Failure
from agent.policy.compile import compile_policy
from agent.policy.document import from_toml
from agent.policy.policy import Policy
from agent.records.settings import SpoolSettings
from agent.records.spool import Spool
from agent.screening import Screening
from tests.fakes.calls import invite, observe, policy, screen

TRUNK = '[[trunks]]\nid = "peer"\nsources = ["192.0.2.0/24"]\n'
SESSIONS = '[[limits]]\nname = "calls"\nscope = "trunk"\nsessions = 1\n'


def a_policy(more: str = "") -> Policy:
    return compile_policy(from_toml(TRUNK + more), {})


def rate(count: int) -> str:
    return f'[[limits]]\nname = "rate"\nscope = "trunk"\nrate = {count}\nwindow_seconds = 3600\nburst = {count}\n'


def recorded(count: int, screening: Screening | None = None) -> list[dict[str, object]]:
    """Records of so many calls, as the spool has them."""
    screening = screening or Screening(a_policy())
    return [screen(screening, invite(call_id=f"call-{n}"), n * 0.1).record().as_dict() for n in range(count)]


def test_only_calls_that_change_are_named() -> None:
    *changed, sums = map(json.loads, compare(iter(recorded(10)), a_policy(rate(8)), a_policy(rate(5))))
    assert [one["call_id"] for one in changed] == ["call-5", "call-6", "call-7"]
    assert changed[0]["before"] == "allow"
    assert changed[0]["after"].startswith("refuse rate (503")
    assert sums == {"replayed": 10, "changed": 3}


def test_both_policies_decide_anew_whatever_was_decided_then() -> None:
    records = recorded(10, Screening(a_policy(rate(1))))
    assert {record["action"] for record in records} == {"allow", "refuse"}
    (sums,) = map(json.loads, compare(iter(records), a_policy(), a_policy()))
    assert sums == {"replayed": 10, "changed": 0}


def test_limits_of_calls_in_progress_take_no_part_and_that_is_said() -> None:
    (sums,) = map(json.loads, compare(iter(recorded(10)), a_policy(), a_policy(SESSIONS)))
    assert sums["changed"] == 0
    assert sums["left_out"].keys() == {"calls"}
    assert "do not say when calls ended" in sums["left_out"]["calls"]


def test_numbers_trunk_and_time_are_those_of_the_record() -> None:
    raw = invite("sip:+13035550199@sbc.example.net", "sip:+12015550123@a.example.net")
    decision = Screening(a_policy()).handle(observe(raw), 0.0)
    assert decision is not None
    observation, identity = observation_of(decision.record().as_dict(), 1)
    again = Screening(a_policy()).handle(observation, 0.0, identity)
    assert again is not None
    for name in ("calling", "called", "trunk", "source", "when"):
        assert getattr(again.attempt, name) == getattr(decision.attempt, name)


def test_dialled_codes_stay_codes_and_emergency_calls_stay_emergency_calls() -> None:
    decision = Screening(a_policy()).handle(observe(invite("sip:911@sbc.example.net")), 0.0)
    assert decision is not None
    (sums,) = map(
        json.loads,
        compare(iter([decision.record().as_dict()] * 3), a_policy(), a_policy(rate(1))),
    )
    assert sums == {"replayed": 3, "changed": 0}


def test_what_was_verified_then_counts_now() -> None:
    record = recorded(1)[0] | {"verification": {"failure": "stale", "why": "61 s old", "attestation": "A"}}
    _, identity = observation_of(record, 1)
    assert identity is not None
    assert (identity.failure, identity.attestation) == (Failure.STALE, "A")
    assert observation_of(record | {"verification": {"failure": "unheard-of"}}, 1)[1] is None


@pytest.mark.parametrize(
    "record",
    [{}, {"called": None}, {"from_uri": "sip:a@b>\r\nX: y", "asserted": ["<\r\n"]}, {"time": "never", "trunk": 7}],
)
def test_a_record_that_makes_no_call_is_counted_or_replayed_and_breaks_nothing(record: dict[str, object]) -> None:
    (sums,) = map(json.loads, compare(iter([record]), a_policy(), a_policy()))
    assert sums["replayed"] + sums.get("not_replayed", 0) == 1


def test_it_runs_in_a_process_of_its_own_over_the_spool(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(TRUNK)

    async def main() -> None:
        spool, screening = Spool(SpoolSettings(tmp_path / "spool")), Screening(policy())
        await spool.start()
        for n in range(5):
            decision = screening.handle(observe(invite(call_id=f"c{n}"), time.time()), float(n))
            assert decision is not None
            spool.put(decision)
        await spool.stop(10.0)
        shadow = Shadow(tmp_path / "spool", tmp_path / "policy.toml", lambda: None, ArtifactFiles(tmp_path))
        after = from_toml(TRUNK + rate(2)).SerializeToString()
        *changed, sums = map(json.loads, await shadow.replay(after, 3600.0))
        assert len(changed) == 3
        assert sums == {"replayed": 5, "changed": 3}
        nothing = [json.loads(one) for one in await shadow.replay(after, 0.0)]
        assert nothing == [{"replayed": 0, "changed": 0}]
        wrong = from_toml(TRUNK)
        wrong.do_not_originate.lists.append("industry")
        with pytest.raises(Refused) as caught:
            await shadow.replay(wrong.SerializeToString(), 3600.0)
        assert [f.field for f in caught.value.problem.fields] == ["do_not_originate.lists[0]"]
        with pytest.raises(Refused):
            await shadow.replay(b"\xff\xff", 3600.0)

    asyncio.run(main())


def test_without_records_there_is_nothing_to_replay(tmp_path: Path) -> None:
    shadow = Shadow(None, tmp_path / "policy.toml", lambda: None, ArtifactFiles(tmp_path))
    with pytest.raises(LookupError, match="keeps no records"):
        asyncio.run(shadow.replay(b"", 60.0))
