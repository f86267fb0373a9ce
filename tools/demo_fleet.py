"""A fleet on this machine, from nothing: a controller, three agents that enrol, calls that never stop.

    python tools/demo_fleet.py [--dir build/fleet]

A policy is rolled out canary-first while calls flow; a policy with a mistake is refused with its field, one that would
refuse everything goes back by itself; one agent is cut off and comes back, with nothing lost. Real processes on
loopback, the real commands. Exits with 1 where something is not as it should be.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import shlex
import shutil
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tools.fleet_traffic import Traffic

ROOT: Final = Path(__file__).parent.parent
BIN: Final = Path(sys.executable).parent
EXAMPLES: Final = ROOT / "examples"
AGENTS: Final = ("sbc1", "sbc2", "sbc3")
CUT: Final = "sbc3"
"""The agent whose line to the controller is cut: it goes through a relay of ours."""

PATIENCE: Final = 30.0
SOAK: Final = "2s"
CUT_SECONDS: Final = 6.0

CONTROLLER: Final = """\
[listen]
agents = "127.0.0.1:{agents}"
open = "127.0.0.1:{open}"
[fleet]
health = 1.0
[metrics]
listen = ""
[log]
level = "warning"
"""

AGENT: Final = """\
policy.file = "{folder}/policy.toml"
hook.socket = "{hook}"
records.directory = "{folder}/spool"
admin.socket = "{hook}.admin"
metrics.listen = ""
log.level = "warning"
[controller]
address = "127.0.0.1:{port}"
directory = "{folder}/control"
"""

OWN_POLICY: Final = 'name = "until a controller says otherwise"\n'


class Failed(Exception):  # noqa: N818  (it is the demo that failed)
    """Something is not as it should be."""


@dataclass
class Place:
    """Where everything is."""

    folder: Path
    sockets: Path
    ports: dict[str, int] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        return os.environ | {"XDG_CONFIG_HOME": str(self.folder / "config"), "PATH": f"{BIN}:{os.environ['PATH']}"}

    def of(self, agent: str) -> Path:
        return self.folder / agent

    def socket(self, agent: str) -> Path:
        """Where its SBC asks: the name of a socket must be short, and that of our folder may be long."""
        return self.sockets / f"{agent}.sock"


BEGIN: Final = time.monotonic()


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m  ({time.monotonic() - BEGIN:.0f} s)", flush=True)


def show(line: str) -> None:
    """With the names of files as they are from here."""
    print(line.replace(f"{ROOT}/", ""), flush=True)


# --- processes


async def run(place: Place, command: str, *, expect: int = 0, quiet: bool = False, stdin: str = "") -> str:
    """One command as an operator types it; its output, shown as it comes unless `quiet`."""
    if not quiet:
        show(f"$ {command}")
    process = await asyncio.create_subprocess_exec(
        *shlex.split(command),
        env=place.environment(),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=1 << 24,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(stdin.encode())
    process.stdin.close()
    lines = []
    async for line in process.stdout:
        lines.append(line.decode())
        if not quiet:
            show(f"  {lines[-1].rstrip()}")
    code = await process.wait()
    if code != expect:
        raise Failed(f"{command}: exit code {code}, not {expect}\n{''.join(lines[-20:])}")
    return "".join(lines)


@asynccontextmanager
async def running(place: Place, log: Path, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A daemon that is told to end afterwards."""
    with log.open("wb") as lines:
        process = await asyncio.create_subprocess_exec(
            *command, env=place.environment(), cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=lines, stderr=lines
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 10.0)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until(what: str, condition: Callable[[], Awaitable[bool]], patience: float = PATIENCE) -> float:
    """Wait for it; how long it took."""
    begin = time.monotonic()
    while not await condition():
        if time.monotonic() - begin > patience:
            raise Failed(f"waited {patience:g} s in vain: {what}")
        await asyncio.sleep(0.2)
    return time.monotonic() - begin


class Relay:
    """The line of one agent to the controller. `cut` ends it as a pulled cable and a refusing switch do."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._to = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_cut = False

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        self._is_cut = False

    async def stop(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            further, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(further, writer))
        self._writers -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


# --- the story


async def agents_of(place: Place) -> dict[str, dict[str, Any]]:
    """What the controller knows of each, by the agent's id."""
    return {agent["id"]: agent for agent in json.loads(await run(place, "sbcctl agents --json", quiet=True))}


async def enrol(place: Place, sha256: str) -> dict[str, str]:
    """All three at once; their ids by name."""
    command = (
        f"sbc-agent enroll --controller 127.0.0.1:{place.ports['open']} --authority-sha256 {sha256} --token-file -"
    )

    async def one(name: str) -> str:
        folder = place.of(name)
        (folder / "spool").mkdir(parents=True)
        (folder / "policy.toml").write_text(OWN_POLICY)
        port = place.ports["relay" if name == CUT else "agents"]
        (folder / "agent.toml").write_text(AGENT.format(folder=folder, hook=place.socket(name), port=port))
        token = await run(place, f"sbcctl tokens create --quiet --note {name}", quiet=True)
        said = await run(place, f"{command} --dir {folder}/control --json", stdin=token, quiet=True)
        return str(json.loads(said)["agent_id"])

    show("$ sbcctl tokens create --quiet --note sbc1 >token")
    show(f"$ {command} --dir {place.of('sbc1')}/control <token")
    ids = dict(zip(AGENTS, await asyncio.gather(*map(one, AGENTS)), strict=True))
    for name, agent_id in ids.items():
        print(f"  {name} is {agent_id}")
    return ids


async def roll_out(place: Place) -> None:
    say("4. A policy for all of them: one agent first, the others when it is well there")
    folder = place.folder
    await run(place, f"sbc-agent dno build {folder}/registry.list --csv examples/dno.csv", quiet=True)
    await run(place, f"sbcctl dno import registry {folder}/registry.list")
    await run(
        place, f"sbcctl policy apply examples/fleet-policy.toml --soak {SOAK} --comment 'first of the fleet' --watch"
    )
    await run(place, "sbcctl dno lookup 2025550150")


async def bad_policies(place: Place) -> None:
    say("5. What would another policy have done to the calls of the last hour?")
    policy, folder = (EXAMPLES / "fleet-policy.toml").read_text(), place.folder
    bad = folder / "everything.toml"
    bad.write_text(policy.replace("rate = 200 #", "rate = 1 #"))
    said = await run(place, f"sbcctl policy diff {bad} --replay LAST-HOUR", expect=1, quiet=True)
    show(f"$ sbcctl policy diff {bad} --replay LAST-HOUR")
    for line in said.splitlines()[:16]:
        show(f"  {line}")
    say("6. A policy with a mistake is refused, with the field; nothing changes")
    wrong = folder / "mistake.toml"
    wrong.write_text(policy.replace("rate = 6 #", "rate = -6 #").replace('"registry"', '"registy"'))
    await run(place, f"sbcctl policy apply {wrong}", expect=1)
    say("7. A policy that would refuse nearly everything: one agent tries it, and all is as it was")
    await run(place, f"sbcctl policy apply {bad} --soak 5s --comment 'a slip of the pen' --watch", expect=1)

    async def settled() -> bool:
        history = json.loads(await run(place, "sbcctl policy history --json", quiet=True))
        return bool(history[0]["rollout_state"] == "done" and history[0]["rolled_back_to"] != 0)

    await until("the policy before is everywhere again", settled)
    await run(place, "sbcctl policy history")


async def cut_off(place: Place, relay: Relay, ids: dict[str, str], traffic: dict[str, Traffic]) -> None:
    say(f"8. The line of {CUT} is cut: it goes on by itself, calls are screened, records wait on its disk")
    relay.cut()
    before = len(traffic[CUT].answered)

    async def gone() -> bool:
        return (await agents_of(place))[ids[CUT]]["connected"] is False

    await until(f"{CUT} is seen as away", gone)
    stricter = place.folder / "stricter.toml"
    stricter.write_text((EXAMPLES / "fleet-policy.toml").read_text().replace("rate = 6 #", "rate = 5 #"))
    await run(place, f"sbcctl policy apply {stricter} --at-once --soak {SOAK}")
    await asyncio.sleep(CUT_SECONDS)
    await run(place, "sbcctl agents")
    print(f"  meanwhile {CUT} has answered {len(traffic[CUT].answered) - before} calls")
    relay.mend()

    async def back() -> bool:
        agents = (await agents_of(place)).values()
        latest = max(agent["offered_generation"] for agent in agents)
        return all(a["connected"] and a["active_generation"] == latest for a in agents)

    seconds = await until(f"{CUT} is back, with the policy that it has missed", back)
    print(f"  {seconds:.1f} s after the line was mended it is back, with the policy that it has missed:")
    await run(place, "sbcctl agents")


async def count(place: Place, ids: dict[str, str], traffic: dict[str, Traffic]) -> None:
    say("9. The calls stop. Every one of them is in the archive, once")
    for one in traffic.values():
        one.end()
    await asyncio.gather(*(one for one in _TASKS))
    for one in traffic.values():
        print(f"  {one.summary()}")
    for name, one in traffic.items():
        found: Counter[str] = Counter()

        async def complete(name: str = name, found: Counter[str] = found, one: Traffic = one) -> bool:
            query = f"sbcctl records query --agent {ids[name]} --limit 100000 --json"
            lines = (await run(place, query, quiet=True)).splitlines()
            found.clear()
            found.update(json.loads(line)["call_id"] for line in lines if line.startswith("{"))
            return found.keys() >= one.answered.keys()

        try:
            await until(f"all records of {name} are here", complete)
        except Failed as error:
            raise Failed(f"{error}: {len(one.answered.keys() - found.keys())} calls are not in the archive") from None
        twice = sum(1 for times in found.values() if times > 1)
        print(f"  {name}: {len(one.answered)} calls answered, {len(found)} in the archive, {twice} twice")
        if twice or found.keys() != one.answered.keys():
            raise Failed(f"{name}: the archive does not hold what was answered")
    if wrong := sum(one.wrong for one in traffic.values()):
        raise Failed(f"{wrong} calls without an answer, or emergency calls that were refused")
    await run(place, "sbcctl records query --refused --limit 3")
    await run(place, "sbcctl audit verify")


_TASKS: list["asyncio.Task[None]"] = []


async def story(place: Place) -> None:
    """From nothing to the end."""
    place.ports = {name: free_port() for name in ("agents", "open")}
    config = place.folder / "controller.toml"
    config.write_text(CONTROLLER.format(**place.ports))
    state = place.folder / "controller"
    relay = Relay(place.ports["agents"])
    await relay.start()
    place.ports["relay"] = relay.port
    say("1. A controller, from nothing: database, authority, keys and an administrator make themselves")
    run_it = (str(BIN / "sbc-controller"), "run", "--config", str(config), "--directory", str(state))
    show(f"$ sbc-controller run --config {config} --directory {state} &")
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(relay.stop)
        await stack.enter_async_context(running(place, place.folder / "controller.log", *run_it))
        sha256 = await logged_in(place, state)
        say("2. Three agents join: a token each, good once; the agent makes its own key")
        ids = await enrol(place, sha256)
        for name in AGENTS:
            start = (str(BIN / "sbc-agent"), "run", "--config", str(place.of(name) / "agent.toml"))
            await stack.enter_async_context(running(place, place.of(name) / "agent.log", *start))

        async def connected() -> bool:
            return sum(bool(agent["connected"]) for agent in (await agents_of(place)).values()) == len(AGENTS)

        await until("all agents are connected", connected)
        say("3. Calls begin at all three, and do not stop until the end")
        traffic = {name: Traffic(name, place.socket(name)) for name in AGENTS}
        _TASKS.extend(asyncio.create_task(one.run()) for one in traffic.values())
        await asyncio.sleep(2.0)
        await run(place, "sbcctl agents")
        await roll_out(place)
        await run(place, "sbcctl limits list")
        await bad_policies(place)
        await cut_off(place, relay, ids, traffic)
        await count(place, ids, traffic)


async def logged_in(place: Place, state: Path) -> str:
    """The administrator's terminal; the SHA-256 of the authority."""
    token = state / "admin.token"

    async def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", place.ports["open"]), 1.0):
            return token.exists()
        return False

    await until("the controller listens", listens)
    authority = state / "authority" / "ca.crt"
    command = f"sbcctl login 127.0.0.1:{place.ports['open']} --token-file {token}"
    await run(place, f"{command} --authority {authority}")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority.read_text())).hexdigest()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(description="A fleet on this machine")
    parser.add_argument("--dir", type=Path, default=ROOT / "build" / "fleet", help="made anew at each start")
    folder = parser.parse_args().dir.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with tempfile.TemporaryDirectory(prefix="fleet-") as sockets:
            asyncio.run(story(Place(folder, Path(sockets))))
    except Failed as error:
        print(f"\nnot as it should be: {error}", file=sys.stderr)
        for log in sorted(folder.glob("**/*.log")):
            last = log.read_text(errors="replace").splitlines()[-3:]
            print("\n".join([f"{log}:", *last]), file=sys.stderr)
        return 1
    say("Done; nothing runs any more. Logs, configurations and the archive stay:")
    show(f"  {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
