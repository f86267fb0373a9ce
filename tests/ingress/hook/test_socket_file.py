"""Who may open the Unix socket, and what happens when its name is taken."""

import asyncio
import grp
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agent.ingress.hook.settings import HookSettings
from agent.model import ConfigError
from agent.rpc.socket_file import SocketFile
from sbcedge.screening.v1 import screening_pb2 as pb
from tests.fakes.calls import invite
from tests.ingress.hook.hooks import PATIENCE, Hook, a_client, a_hook, request

NOBODY = 65_534
# Becomes the other user only when it has loaded what it needs: the interpreter may be in a folder of root's.
CONNECT = """
import os, socket, sys
path, user, group = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.setgroups([]); os.setgid(group); os.setuid(user)
socket.socket(socket.AF_UNIX).connect(path)
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def may_connect(path: Path, *, group: int = NOBODY) -> bool:
    """Whether another user, in this group, gets a connection."""
    command = [sys.executable, "-I", "-c", CONNECT, str(path), str(NOBODY), str(group)]
    result = subprocess.run(command, check=False, stderr=subprocess.PIPE)
    assert result.returncode == 0 or b"PermissionError" in result.stderr, result.stderr
    return result.returncode == 0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@needs_root
def test_another_user_gets_no_connection(open_folder: Path) -> None:
    async def run() -> None:
        async with a_hook(open_folder) as hook:
            assert mode(hook.path) == 0o660
            assert not await asyncio.to_thread(may_connect, hook.path)

    asyncio.run(run())


@needs_root
def test_a_member_of_the_group_gets_one(open_folder: Path) -> None:
    group = next(entry for entry in grp.getgrall() if entry.gr_gid not in (0, NOBODY))

    async def run() -> None:
        async with a_hook(open_folder, group=group.gr_name) as hook:
            assert hook.path.stat().st_gid == group.gr_gid
            assert await asyncio.to_thread(may_connect, hook.path, group=group.gr_gid)
            assert not await asyncio.to_thread(may_connect, hook.path)

    asyncio.run(run())


@needs_root
def test_nobody_else_may_even_see_where_the_socket_is_made(open_folder: Path) -> None:
    bound = SocketFile(open_folder / "hook.sock", 0o660, "").prepare()
    assert mode(bound.parent) == 0o700
    assert bound.parent.parent == open_folder


def test_the_mode_is_the_one_that_was_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    async def run() -> None:
        for wanted in (0o600, 0o664):
            async with a_hook(tmp_path, mode=wanted) as hook:
                assert mode(hook.path) == wanted

    before = os.umask(0o077)
    try:
        asyncio.run(run())
    finally:
        os.umask(before)


def test_a_socket_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "hook.sock"))

    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            assert (await client.Screen(request(invite()), timeout=PATIENCE)).decision == pb.DECISION_ALLOW

    asyncio.run(run())
    assert list(tmp_path.iterdir()) == [], "and nothing stays behind"


def test_a_socket_on_which_somebody_listens_is_left_to_him(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as first, a_client(first) as client:
            with pytest.raises(ConfigError, match="somebody listens"):
                await Hook(tmp_path).server.start()
            assert (await client.Screen(request(invite()), timeout=PATIENCE)).decision == pb.DECISION_ALLOW
            assert [path.name for path in tmp_path.iterdir()] == ["hook.sock"]

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_name_that_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "hook.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/null")

    with pytest.raises(ConfigError, match="is no socket") as refused:
        asyncio.run(Hook(tmp_path).server.start())
    assert refused.value.field == "hook.socket"
    assert path.lstat()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_stopped_hook_takes_its_own_name_away_and_no_other(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook:
            hook.path.unlink()
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(hook.path))
        assert stat.S_ISSOCK(hook.path.stat().st_mode)

    asyncio.run(run())


def test_a_group_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='there is no group "no-such-group"') as refused:
        asyncio.run(Hook(tmp_path, group="no-such-group").server.start())
    assert refused.value.field == "hook.group"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_there_is_not_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        asyncio.run(Hook(tmp_path / "absent").server.start())


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("socket", {"socket": Path("/x" * 60)}),
        ("mode", {"mode": 0o666}),
        ("allowed_clients[1]", {"allowed_clients": ("CN:a", "sbc2")}),
        ("allowed_clients[0]", {"allowed_clients": ("CN:",)}),
        ("listen", {"listen": "localhost"}),
        ("certificate", {"listen": "127.0.0.1:1"}),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(field: str, fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as refused:
        HookSettings(**fields)  # type: ignore[arg-type]
    assert refused.value.field == field
