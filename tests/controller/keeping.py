"""`sbc-controller` and `sbcctl` as processes, on the state of a controller of a test."""

import os
import subprocess
import sys
from pathlib import Path

import grpc
from grpc import aio

from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.control.v1 import control_pb2_grpc as pb_grpc
from tests.conftest import ROOT
from tests.controller.agents import OPTIONS, PATIENCE, PlayedAgent, key_and_request, pem_of
from tests.fakes.controller_process import ControllerProcess


def sbc_controller(controller: ControllerProcess, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """With the configuration and the folder of this controller."""
    command, *rest = arguments
    options = ("--config", str(controller.folder / "c1.toml"), "--directory", str(controller.folder))
    return subprocess.run(
        [sys.executable, "-m", "controller.cli.main", command, *options, *rest],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def well(done: "subprocess.CompletedProcess[str]") -> str:
    """Its output."""
    assert done.returncode == 0, done
    return done.stdout


def environment_of(controller: ControllerProcess, token: Path) -> dict[str, str]:
    """For sbcctl."""
    return os.environ | {
        "SBCCTL_CONTROLLER": controller.open_address,
        "SBCCTL_AUTHORITY": str(controller.folder / "authority" / "ca.crt"),
        "SBCCTL_TOKEN_FILE": str(token),
    }


def channel_of(agent: PlayedAgent) -> aio.Channel:
    """As an agent makes it: it trusts what came with its certificate, and nobody else."""
    roots = pem_of(agent.credentials.trust_bundle)
    secret = grpc.ssl_channel_credentials(roots, agent.key, agent.chain)
    channel = aio.secure_channel(agent.controller.address, secret, options=OPTIONS)
    agent.controller.channels.append(channel)
    return channel


async def renewed(agent: PlayedAgent) -> PlayedAgent:
    """The same agent with its next certificate, and all that comes with it."""
    key, request = key_and_request()
    stub = pb_grpc.IdentityServiceStub(channel_of(agent))
    response = await stub.RenewCertificate(
        pb.RenewCertificateRequest(certificate_request=request, instance_uid=agent.instance_uid), timeout=PATIENCE
    )
    credentials = response.credentials
    chain = pem_of(credentials.certificate_chain)
    return PlayedAgent(agent.controller, agent.id, agent.instance_uid, key, chain, credentials)


async def refused(agent: PlayedAgent) -> str:
    """Why it gets no session."""
    try:
        call = pb_grpc.ControlServiceStub(channel_of(agent)).OpenSession(timeout=PATIENCE)
        await call.write(pb.OpenSessionRequest(hello=pb.Hello(instance_uid=agent.instance_uid, boot_id="b")))
        message = await call.read()
        if message is not aio.EOF and message.WhichOneof("message") == "welcome":
            return ""
        return str(message)
    except aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
