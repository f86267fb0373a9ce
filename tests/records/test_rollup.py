"""Roll-ups say what was added since the last one."""

from agent.records.rollup import Look, roll_up
from agent.service import Tally
from tests.records.decisions import allowed, refused


def test_a_roll_up_counts_what_came_between_two_looks() -> None:
    tally = Tally()
    tally.count(allowed())
    before = Look.at(tally, 100.0)
    for decision in (allowed(), refused(), refused()):
        tally.count(decision)
    tally.repeats += 4
    after = Look.at(tally, 110.0)
    assert roll_up(before, after, 1_800_000_000.0) == {
        "time": "2027-01-15T08:00:00.000000Z",
        "seconds": 10.0,
        "attempts": 3,
        "repeats": 4,
        "not_decided": 0,
        "trunks": {"unknown": {"allow": 1, "refuse": 2}},
        "rules": {"": {"allow": 1}, "provider-block": {"refuse": 2}},
    }


def test_a_look_does_not_change_with_the_tally() -> None:
    tally = Tally()
    look = Look.at(tally, 0.0)
    tally.count(allowed())
    assert look == Look()


def test_a_quiet_time_is_a_roll_up_of_nothing() -> None:
    value = roll_up(Look(now=5.0), Look(now=15.0), 0.0)
    assert value["attempts"] == 0
    assert value["trunks"] == {}
