"""sbcctl against a controller in this process: commands run in a thread, as people run them one after the other."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from controller.ctl.main import main
from controller.model import Act, Role
from tests.controller.agents import Controller, a_controller


class Said(NamedTuple):
    """What a command has answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Desk:
    """An operator's terminal with a home of its own."""

    def __init__(self, controller: Controller, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.controller = controller
        self.folder = folder
        self._capsys = capsys
        self._turn = asyncio.Lock()

    async def run(self, *arguments: str) -> Said:
        """One command."""
        async with self._turn:
            self._capsys.readouterr()
            try:
                code = await asyncio.to_thread(main, arguments)
            except SystemExit as error:
                code = int(error.code or 0)
            out, err = self._capsys.readouterr()
        return Said(code, out, err)

    async def ok(self, *arguments: str) -> Said:
        """One that shall be well."""
        said = await self.run(*arguments)
        assert said.code == 0, said
        return said

    def file(self, name: str, content: str | bytes) -> str:
        """Its path."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    async def token_of(self, role: Role, name: str = "") -> str:
        """The login token of a new operator."""
        authority, clock = self.controller.parts.authority, self.controller.parts.clock
        act = Act("operator:admin", "operator.create")
        _, token = await authority.create_operator(act, name or role.word, role, None, clock())
        return token

    async def log_in(self, token: str, *more: str) -> Said:
        """As whoever has this token."""
        return await self.run(
            "login",
            self.controller.server.open_address,
            "--authority-sha256",
            self.controller.parts.authority.sha256,
            "--token-file",
            self.file("token", token + "\n"),
            *more,
        )


def at_desk(
    work: Callable[[Desk], Awaitable[None]],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    more: str = "",
) -> None:
    """Run this with a controller and an administrator who is logged in."""
    for name in [name for name in os.environ if name.startswith("SBCCTL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))

    async def session() -> None:
        async with a_controller(folder / "state", more=more) as controller:
            desk = Desk(controller, folder, capsys)
            assert (await desk.log_in(controller.admin)).code == 0
            await work(desk)

    asyncio.run(session())
