"""Whoever could open the Unix socket is held against its group or a list of users, call by call."""

import asyncio
import grp
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agent.http2 import frames
from agent.ingress.hook.settings import HookSettings
from agent.model import ConfigError
from agent.rpc.local import LocalUsers, user_ids
from agent.rpc.peers import Peer
from sbcedge.screening.v1 import screening_pb2 as pb
from tests.fakes.calls import invite
from tests.ingress.hook.hooks import PATIENCE, Hook, a_client, a_hook, request
from tests.ingress.hook.test_socket_file import NOBODY, needs_root
from tests.rpc.world import RawClient, asked
from tests.rpc.world import request as headers

SCREEN = b"/sbcedge.screening.v1.ScreeningService/Screen"
WANTED = pb.ScreenRequest(id=1, sip_message=invite()).SerializeToString()


def connected_as(path: Path, user: int, group: int, more: tuple[int, ...]) -> socket.socket:
    """A connection of this user: for the kernel, whoever one was effectively when one connected."""
    before = os.getgroups()
    sock = socket.socket(socket.AF_UNIX)
    os.setgroups(more)
    os.setegid(group)
    os.seteuid(user)
    try:
        sock.connect(str(path))
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)
    return sock


async def told(
    path: Path, user: int, group: int, *more: int, method: bytes = SCREEN, message: bytes = WANTED
) -> tuple[int, bytes]:
    """Status and message that a process of this user gets, with these groups beside its own."""
    reader, writer = await asyncio.open_unix_connection(sock=connected_as(path, user, group, more))
    client = RawClient(reader, writer)
    client.say(frames.PREFACE, frames.settings({}), asked(1, headers(method), message))
    ended = await client.ended(1)
    writer.close()
    return int(ended[b"grpc-status"]), ended.get(b"grpc-message", b"")


@pytest.fixture
def group() -> grp.struct_group:
    return next(entry for entry in grp.getgrall() if entry.gr_gid not in (0, NOBODY))


@needs_root
def test_members_of_the_group_are_answered_by_either_kind_of_membership(
    open_folder: Path, group: grp.struct_group
) -> None:
    async def run() -> None:
        async with a_hook(open_folder, group=group.gr_name) as hook:
            assert await told(hook.path, NOBODY, group.gr_gid) == (0, b"")
            assert await told(hook.path, NOBODY, NOBODY, group.gr_gid) == (0, b"")
            assert hook.count("strangers") == 0

    asyncio.run(run())


@needs_root
def test_who_gets_in_without_being_of_the_group_is_told_so_and_counted(open_folder: Path) -> None:
    async def run() -> None:
        async with a_hook(open_folder) as hook:
            hook.path.chmod(0o666)  # behind our back
            assert await told(hook.path, NOBODY, NOBODY) == (7, b"user %d must not ask here" % NOBODY)
            assert (hook.count("strangers"), hook.count("requests")) == (1, 0)

    asyncio.run(run())


@needs_root
def test_where_users_are_listed_the_group_alone_is_not_enough(open_folder: Path, group: grp.struct_group) -> None:
    async def run() -> None:
        async with a_hook(open_folder, group=group.gr_name, users=("daemon",)) as hook:
            assert (await told(hook.path, NOBODY, group.gr_gid))[0] == 7
            (daemon,) = user_ids(["daemon"], "x")
            assert (await told(hook.path, daemon, group.gr_gid))[0] == 0
            async with a_client(hook) as client:
                answer = await client.Screen(request(invite()), timeout=PATIENCE)
                assert answer.decision == pb.DECISION_ALLOW, "the agent's own user may always"

    asyncio.run(run())


def test_health_is_not_for_strangers_either(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, hook.channel() as channel:
            hook.server._users = LocalUsers(frozenset(), -1)
            hook.server._users._users = frozenset()
            stub: Any = health_pb2_grpc.HealthStub(channel)
            with pytest.raises(aio.AioRpcError) as refused:
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            assert refused.value.code() is StatusCode.PERMISSION_DENIED

    asyncio.run(run())


@pytest.mark.parametrize(
    ("peer", "users", "group", "may"),
    [
        (Peer(uid=0, gid=0), (), -1, True),
        (Peer(uid=os.geteuid(), gid=7), (), -1, True),
        (Peer(uid=5, gid=7), (), 7, True),
        (Peer(uid=5, gid=8, groups=frozenset({7})), (), 7, True),
        (Peer(uid=5, gid=8), (), 7, False),
        (Peer(uid=5, gid=7), (6,), 7, False),
        (Peer(uid=6, gid=8), (6,), 7, True),
        (Peer(), (), -1, False),
    ],
)
def test_who_may_ask_is_root_ourselves_the_users_or_else_the_group(
    peer: Peer, users: tuple[int, ...], group: int, may: bool
) -> None:
    assert LocalUsers(frozenset(users), group).admits(peer) is may


def test_a_user_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='there is no user "no-such-user"') as refused:
        asyncio.run(Hook(tmp_path, users=("root", "no-such-user")).server.start())
    assert refused.value.field == "hook.users[1]"
    assert list(tmp_path.iterdir()) == []
    assert HookSettings(users=("root",)).users == ("root",)
