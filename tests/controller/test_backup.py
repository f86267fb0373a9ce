"""A controller is lost, and comes back from an earlier back-up: its fleet goes on, and no record is there twice."""

import asyncio
import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from controller.backup import MANIFEST, BackupError, make_backup, read_backup
from controller.restoring import put_back
from controller.store import StoreSettings
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.conftest import ROOT
from tests.controller.agents import a_config, a_controller, a_policy
from tests.controller.artifacts.lists import Lists, dno
from tests.controller.ingest.uploads import archived
from tests.controller.keeping import environment_of, refused, renewed, sbc_controller, well
from tests.controller.stores import opened
from tests.fakes.agent_process import CONFIG, AgentProcess, start_agent
from tests.fakes.calls import invite
from tests.fakes.controller_process import ControllerProcess
from tests.integration.fleet.world import HURRY

NEEDS = '\n[do_not_originate]\nlists = ["industry"]\n'
FAST = "[ingest]\ncommit_seconds = 0.05\n[archive]\nmin_free_ratio = 0.0\n"
PATIENCE = 90.0


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("b")


def sbcctl(controller: ControllerProcess, token: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "controller.ctl.main", *arguments]
    return well(
        subprocess.run(
            command,
            cwd=ROOT,
            env=environment_of(controller, token),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    )


@asynccontextmanager
async def an_agent(controller: ControllerProcess, folder: Path, token: Path) -> AsyncIterator[AgentProcess]:
    """Enrolled, with a session."""
    folder.mkdir()
    (folder / "token").write_text(await asyncio.to_thread(sbcctl, controller, token, "tokens", "create", "--quiet"))
    pin = json.loads(
        await asyncio.to_thread(sbcctl, controller, token, "tokens", "create", "--json")
    )["authority_sha256"]  # fmt: skip
    command = [
        *(sys.executable, "-m", "agent.cli.main", "enroll", "--controller", controller.open_address),
        *("--token-file", str(folder / "token"), "--dir", str(folder / "control"), "--authority-sha256", pin),
    ]
    await asyncio.to_thread(subprocess.run, command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    config = CONFIG + f'[controller]\naddress = "{controller.address}"\ndirectory = "{{folder}}/control"\n'
    with start_agent(folder, config, 'name = "of the file"', HURRY) as agent:
        await asyncio.to_thread(agent.logged, "session")
        yield agent


async def calls(agent: AgentProcess, name: str, count: int) -> set[str]:
    def ask_them() -> set[str]:
        names = {f"{name}-{n}@a.example.net" for n in range(count)}
        with agent.hook() as ask:
            for one in sorted(names):
                ask(invite(call_id=one))
        return names

    return await asyncio.to_thread(ask_them)


async def until_so(look: Any) -> Any:
    """What `look` comes to at last."""
    async with asyncio.timeout(PATIENCE):
        while not (found := await look()):
            await asyncio.sleep(0.1)
    return found


async def shown(controller: ControllerProcess, token: str) -> Any:
    agents = (await controller.operator(token).fleet.ListAgents(fleet.ListAgentsRequest())).agents
    return max(agents, key=lambda agent: agent.records_committed)


async def kept(folder: Path) -> Counter[str]:
    """Every call in the archive of a controller that is dead, and how often it is there."""
    async with opened(StoreSettings(folder / "state.db"), "c1") as store:
        rows = await archived(store, folder)
    return Counter(str(row["call_id"]) for row in rows if row.get("call_id"))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_fleet_goes_on_with_a_controller_from_a_back_up_and_no_record_is_there_twice(folder: Path) -> None:
    state, saved, token = folder / "c", folder / "saved", folder / "token"
    state.mkdir()

    async def main() -> None:
        with ControllerProcess(state, more=FAST) as controller:
            admin = controller.admin
            token.write_text(admin)
            configuration = (state / "c1.toml").read_text()
            lists, operator = Lists(controller, admin), controller.operator(admin)  # type: ignore[arg-type]
            await lists.imports("industry", dno(["2015550177"]))
            renewing, played = await controller.enrol(), await controller.enrol()
            async with an_agent(controller, folder / "a", token) as agent:
                await operator.apply(a_policy("first", 100_000) + NEEDS, steps=(1.0,), soak=0.2)
                await operator.sees(lambda agents: any(one.active_generation == 1 for one in agents))
                everything = await calls(agent, "before", 30)

                async def has(count: int) -> bool:
                    found = await shown(controller, admin)
                    return bool(found.records_committed >= count)

                await until_so(lambda: has(30))
                well(await asyncio.to_thread(sbc_controller, controller, "backup", str(saved)))
                assert not list(saved.rglob("*.key"))
                # What is lost: a list, a policy, a certificate, an agent, records.
                await lists.imports("industry", dno(["2015550178"]))
                await operator.apply(a_policy("second", 100_000) + NEEDS, steps=(1.0,), soak=0.2)
                await operator.sees(lambda agents: any(one.active_generation == 3 for one in agents))
                renewing = await renewed(renewing)
                newcomer = await controller.enrol()
                everything |= await calls(agent, "after", 30)
                await until_so(lambda: has(60))
                await controller.close()
                controller.kill()
                state.rename(folder / "lost")
                state.mkdir()
                (state / "c1.toml").write_text(configuration)
                done = await asyncio.to_thread(sbc_controller, controller, "restore", str(saved))
                assert done.returncode == 78
                assert "ca.key: is missing, and not in this back-up" in done.stderr
                (state / "authority").mkdir(exist_ok=True)
                for name in ("ca.key", "artifact.key"):
                    shutil.copy(folder / "lost" / "authority" / name, state / "authority" / name)
                said = well(await asyncio.to_thread(sbc_controller, controller, "restore", str(saved)))
                assert "agents get what was in force as generation 1002" in said
                everything |= await calls(agent, "meanwhile", 30)
                await asyncio.to_thread(controller.start)

                async def is_back() -> bool:
                    found = await shown(controller, admin)
                    return bool(found.active_generation == 1002 and found.records_committed >= 90)

                await until_so(is_back)
                status = await asyncio.to_thread(agent.status)
                assert status.policy_name == "first"
                found = json.loads(await asyncio.to_thread(sbcctl, controller, token, "lists", "status", "--json"))
                assert {row["generation"] for row in found} >= {1002}
                assert "intact" in await asyncio.to_thread(sbcctl, controller, token, "audit", "verify")
                assert await refused(renewing) == ""  # its certificate is younger than the back-up
                assert await refused(played) == ""
                assert "enrol it again" in await refused(newcomer)
                assert (await asyncio.to_thread(agent.component, "controller")).healthy
            await controller.close()
            controller.kill()
        found_calls = await kept(state)
        assert set(found_calls) == everything
        assert set(found_calls.values()) == {1}

    asyncio.run(main())


def test_a_back_up_is_whole_while_everything_is_being_written_and_costs_only_what_is_new(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c") as controller:
            config, lists, saved = controller.parts.config, Lists(controller), tmp_path / "saved"
            busy = asyncio.Event()

            async def write() -> None:
                n = 0
                while not busy.is_set():
                    await lists.imports(f"l{n % 3}", dno([str(2_015_550_100 + n)]))
                    n += 1

            writing = asyncio.create_task(write())
            for _ in range(3):
                await asyncio.to_thread(make_backup, config, saved, 1.0, with_keys=False)
                backup = read_backup(saved)
                with contextlib.closing(sqlite3.connect(saved / "state.db")) as database:
                    named = {row[0] for row in database.execute("SELECT location FROM artifacts")}
                assert {f"artifacts/{name}" for name in named} <= set(backup.files)
            busy.set()
            await writing
            made = make_backup(config, saved, 2.0, with_keys=True)
            assert {"authority/ca.key", "authority/artifact.key", "authority/ca.crt"} <= made.files.keys()
            assert (saved / "authority" / "ca.key").stat().st_mode & 0o077 == 0
            there = {path.stat().st_ino for path in (saved / "artifacts").iterdir()}
            make_backup(config, saved, 3.0, with_keys=True)
            assert {path.stat().st_ino for path in (saved / "artifacts").iterdir()} == there

    asyncio.run(main())


@pytest.mark.parametrize("harm", ["unfinished", "state", "file", "cut", "escape"])
def test_what_is_no_whole_back_up_is_not_put_back(tmp_path: Path, harm: str) -> None:
    async def main() -> Path:
        async with a_controller(tmp_path / "c") as controller:
            await Lists(controller).imports("industry", dno(["2015550123"]))
            make_backup(controller.parts.config, tmp_path / "saved", 1.0, with_keys=True)
        return tmp_path / "saved"

    saved = asyncio.run(main())
    artifact = next((saved / "artifacts").iterdir())
    match harm:
        case "unfinished":
            (saved / MANIFEST).unlink()
        case "state":
            data = bytearray((saved / "state.db").read_bytes())
            data[len(data) // 2] ^= 1
            (saved / "state.db").write_bytes(data)
        case "file":
            artifact.unlink()
        case "cut":
            artifact.write_bytes(artifact.read_bytes()[:-1])
        case "escape":
            manifest = json.loads((saved / MANIFEST).read_text())
            manifest["files"]["artifacts/../../outside"] = 0
            (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BackupError):
        read_backup(saved)


def test_a_folder_with_a_state_of_its_own_keeps_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c") as controller:
            make_backup(controller.parts.config, tmp_path / "saved", 1.0, with_keys=True)

    asyncio.run(main())
    before = (tmp_path / "c" / "state.db").read_bytes()
    with pytest.raises(BackupError, match="is there already"):
        put_back(a_config(tmp_path / "c"), tmp_path / "saved")
    assert (tmp_path / "c" / "state.db").read_bytes() == before
