"""`sbcctl upgrade` from an operator's terminal, with hosts that are played."""

from tests.controller.ctl.conftest import AtDesk
from tests.controller.ctl.running import Desk
from tests.controller.hosts import NEW, OLD, Hosts


def test_an_upgrade_is_followed_to_its_end_and_shown_with_who_was_passed_by(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        hosts = Hosts(desk.controller)
        assert "no upgrade has begun yet" in (await desk.run("upgrade", "status")).err
        async with hosts.live({"able": False}, size=2):
            followed = await desk.ok("upgrade", "start", NEW, "--soak", "0s", "--watch")
            assert f"upgrade 1 to {NEW}: done" in followed.out
            shown = await desk.ok("upgrade", "status")
            assert "takes no upgrades" in shown.out
            assert hosts.all[0].agent.id in shown.out
            told = (await desk.ok("upgrade", "status", "--json")).json
            assert (told["version"], told["rollout"]["phases"]) == (NEW, {"confirmed": 1})
            assert hosts.versions() == [OLD, NEW]

    at_desk(work)


def test_an_upgrade_that_goes_wrong_ends_with_one_and_the_reason(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        hosts = Hosts(desk.controller)
        async with hosts.live({"does": {NEW: ["REJECTED"]}}, size=1):
            followed = await desk.run("upgrade", "start", NEW, "--soak", "0s", "--watch")
            assert followed.code == 1
            assert "rejected it: no room" in followed.out
            assert (await desk.run("upgrade", "halt")).code == 1  # it does not run any more

    at_desk(work)
