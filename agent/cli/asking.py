"""How commands ask the running agent over its admin socket. Knows gRPC, and what its errors mean to a person."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    import grpc

    from sbcedge.admin.v1 import admin_pb2_grpc

SOCKET: Final = Path("/run/sbc-edge-agent/admin.sock")
MESSAGE_MAX: Final = 64 << 20
"""Bytes of an answer that are taken; thousands of records of one call are fewer."""

PATIENCE_SECONDS: Final = 10.0
"""For one answer. The agent answers from memory; only lists of a new policy take longer, see `policy apply`."""


class AgentError(Exception):
    """The agent did not answer, or said no. The text is for people."""


def add_socket(parser: argparse.ArgumentParser) -> None:
    """The argument that all these commands have."""
    parser.add_argument(
        "--socket", type=Path, default=SOCKET, metavar="PATH", help=f"admin socket of the agent (default: {SOCKET})"
    )


@contextmanager
def agent_at(socket: Path) -> "Iterator[admin_pb2_grpc.AdminServiceStub]":
    """A stub to ask. Raises AgentError, in words, for whatever goes wrong while it is asked."""
    import grpc  # noqa: PLC0415  (100 ms that `--help` need not pay)

    from sbcedge.admin.v1 import admin_pb2_grpc  # noqa: PLC0415

    try:
        socket.stat()
    except OSError as error:
        raise AgentError(_not_there(socket, error)) from None
    address = f"unix:{socket.absolute()}"
    options = [("grpc.max_receive_message_length", MESSAGE_MAX), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options) as channel:
        try:
            yield admin_pb2_grpc.AdminServiceStub(channel)
        except grpc.RpcError as error:
            raise AgentError(_in_words(socket, error)) from None


def _not_there(socket: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"no agent runs with the admin socket {socket} (--socket names another): `sbc-agent doctor` says why"
    return f"{socket}: {error.strerror}"


def _in_words(socket: Path, error: Exception) -> str:
    from grpc import StatusCode  # noqa: PLC0415

    call = cast("grpc.Call", error)  # what stubs raise is both
    code, details = call.code(), call.details() or ""
    if code is StatusCode.UNAVAILABLE:
        if "Permission denied" in details:
            return f"{socket}: permission denied; ask as the agent's user, as root, or as a member of its group"
        return f"no agent answers on {socket}: `sbc-agent doctor` says why"
    if code is StatusCode.DEADLINE_EXCEEDED:
        return f"the agent on {socket} does not answer in time"
    return details or str(code.name)
