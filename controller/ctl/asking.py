"""How commands ask the controller: a channel with certificate or token, stubs, and what gRPC's errors mean to a person.

Imported when something is asked, not for `--help`.
"""

import argparse
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode

from agent.model import ConfigError
from controller.ctl.profile import Access, resolve
from sbcedge.control.v1 import control_pb2
from sbcedge.fleet.v1 import fleet_pb2_grpc as rpc

MESSAGE_MAX: Final = 64 << 20
"""Bytes of an answer that are taken: ten thousand agents are 3 MB."""

PATIENCE_SECONDS: Final = 15.0
"""For one answer: what the controller takes at most, and the way there and back."""

LONGER: Final[Mapping[str, float]] = {
    "ApplyPolicy": 70.0,
    "DiffPolicy": 130.0,  # waits for agents that replay
    "VerifyAudit": 130.0,  # walks the whole log
    "ImportList": 900.0,
}
"""Methods that take longer. Streams have no end of their own."""

PROBLEM_KEY: Final = "sbcedge-problem-bin"
RETRY_KEY: Final = "sbcedge-retry-after-ms"

OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_MAX),
    ("grpc.enable_http_proxy", 0),
    ("grpc.primary_user_agent", "sbcctl"),
    # A view that goes on shall notice when the controller is gone.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),  # else a minute (grpc 1.85), whatever the line above says
)

_FIRST_KEY: Final = re.compile(rb"-----BEGIN CERTIFICATE-----")


class ControlError(Exception):
    """The controller did not answer, or said no. Each of `lines` is for people, and names the field it is about."""

    def __init__(self, lines: list[str], code: StatusCode | None = None) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines
        self.code = code


class Fleet:
    """The controller's services for operators."""

    def __init__(self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self.agents = _Asking(rpc.FleetServiceStub(channel), metadata)
        self.access = _Asking(rpc.AccessServiceStub(channel), metadata)
        self.policy = _Asking(rpc.PolicyServiceStub(channel), metadata)
        self.rollout = _Asking(rpc.RolloutServiceStub(channel), metadata)
        self.upgrade = _Asking(rpc.UpgradeServiceStub(channel), metadata)
        self.lists = _Asking(rpc.ListServiceStub(channel), metadata)
        self.limits = _Asking(rpc.LimitServiceStub(channel), metadata)
        self.records = _Asking(rpc.RecordServiceStub(channel), metadata)
        self.audit = _Asking(rpc.AuditServiceStub(channel), metadata)


class _Asking:
    """A stub whose methods bring the token along, and the patience that they need."""

    def __init__(self, stub: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._stub = stub
        self._metadata = metadata

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call = getattr(self._stub, method)
        streams = isinstance(call, grpc.UnaryStreamMultiCallable)
        patience = None if streams else LONGER.get(method, PATIENCE_SECONDS)
        return lambda request: call(request, metadata=self._metadata, timeout=patience)


@contextmanager
def connected(args: argparse.Namespace) -> Iterator[Fleet]:
    """Ask within this block. Raises ControlError, in words, for whatever goes wrong in it; ConfigError before."""
    access = resolve(args, os.environ)
    with reaching(access) as fleet:
        yield fleet


@contextmanager
def reaching(access: Access) -> Iterator[Fleet]:
    """The same, with this access."""
    metadata = (("authorization", f"Bearer {access.token}"),) if access.token else ()
    with grpc.secure_channel(access.controller, _credentials(access), OPTIONS) as channel:
        try:
            yield Fleet(channel, metadata)
        except grpc.RpcError as error:
            raise _in_words(access, cast("grpc.Call", error)) from None


def _credentials(access: Access) -> grpc.ChannelCredentials:
    """Raises ConfigError."""
    if not access.identity:
        return grpc.ssl_channel_credentials(access.authority)
    found = _FIRST_KEY.search(access.identity)
    if b"PRIVATE KEY-----" not in access.identity or found is None:
        raise ConfigError("--identity", "must hold a private key and its certificate, PEM")
    start = found.start()
    return grpc.ssl_channel_credentials(access.authority, access.identity[:start], access.identity[start:])


# --- errors


def _in_words(access: Access, call: grpc.Call) -> ControlError:
    controller = access.controller
    code, details = call.code(), call.details() or ""
    trailing = dict(call.trailing_metadata() or ())
    match code:
        case StatusCode.UNAVAILABLE if "handshake" in details.lower() or "certificate" in details.lower():
            lines = [f"{controller} cannot be trusted: {_tls(details, access)}"]
        case StatusCode.UNAVAILABLE:
            lines = [f"no controller answers at {controller}: {details}", "does it run? is this its open port (7444)?"]
        case StatusCode.DEADLINE_EXCEEDED:
            lines = [f"the controller at {controller} does not answer in time: {details}"]
        case StatusCode.UNAUTHENTICATED:
            lines = [f"not let in: {details}", "log in again: sbcctl login --help"]
        case StatusCode.UNIMPLEMENTED:
            lines = [f"the controller at {controller} cannot do this: it is of another release"]
        case _:
            lines = _violations(trailing.get(PROBLEM_KEY)) or [details or code.name.lower().replace("_", " ")]
    if (after := trailing.get(RETRY_KEY)) is not None and str(after).isdecimal():
        lines.append(f"try again in {int(after) / 1000:g} s")
    return ControlError(lines, code)


def _violations(serialised: str | bytes | None) -> list[str]:
    """Each field that is wrong, with the reason."""
    if not isinstance(serialised, bytes):
        return []
    try:
        problem = control_pb2.Problem.FromString(serialised)
    except DecodeError:
        return []
    return [f"{f.field}: {f.description}" if f.field else f.description for f in problem.fields]


def _tls(details: str, access: Access) -> str:
    """What of a long story of BoringSSL's matters."""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        if access.authority is None:
            return "its certificate is of no authority that this system knows: give --authority or --authority-sha256"
        return "its certificate is not of the authority that was given (--authority)"
    if "hostname" in details.lower() or "peer name" in details.lower():
        return "its certificate is not for this name"
    if "CERTIFICATE_REQUIRED" in details or "handshake failure" in details.lower():
        return "it wants a certificate: see `sbcctl certificate --help`, or ask its open port"
    return details
