"""Joining a fleet: a token, good for once, becomes a certificate.

The question is kept on disk, with its key, until it is answered: the same token gets the same question again, however
often the answer was lost or this process killed, and the controller answers the same question with the same
certificate. Before the token is told to anybody, whoever answers must have shown who it is.
"""

import contextlib
import hashlib
import json
import secrets
import socket
import ssl
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

import grpc

from agent.control.credentials import (
    FLEET,
    CredentialFiles,
    Credentials,
    assemble,
    certificate_request,
    load_key,
    new_key,
    read_file,
    write_private,
)
from agent.control.errors import ControllerError, Trouble, of_rpc
from agent.control.messages import Enrolled
from agent.control.settings import check_address
from agent.control.wire import enroll_request, enrolled_of
from sbcedge.control.v1 import control_pb2_grpc

CONTACT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 20.0
MESSAGE_MAX: Final = 1 << 20

PENDING: Final = "pending.json"


@dataclass(frozen=True, slots=True)
class Pending:
    """An enrolment that was asked for. The same token gets the same question until there is an answer."""

    token_sha256: str
    idempotency_key: str
    instance_uid: str
    key: bytes = field(repr=False)


def begin(directory: Path, token_sha256: str) -> Pending:
    """The question that was begun with this token, or a new one; on disk when it returns. Raises OSError."""
    path = directory / PENDING
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = json.loads(read_file(path))
        pending = Pending(
            str(kept["token_sha256"]), str(kept["idempotency_key"]), str(kept["instance_uid"]), kept["key"].encode()
        )
        load_key(pending.key)
        if pending.token_sha256 == token_sha256:
            return pending
    pending = Pending(token_sha256, secrets.token_hex(16), _instance(directory), new_key())
    document = {
        "token_sha256": token_sha256,
        "idempotency_key": pending.idempotency_key,
        "instance_uid": pending.instance_uid,
        "key": pending.key.decode(),
    }
    write_private(path, json.dumps(document).encode())
    return pending


def finish(directory: Path, pending: Pending, enrolled: Enrolled) -> Credentials:
    """Keep the answer, forget the question. Raises ControllerError, OSError."""
    credentials = replace(
        assemble(enrolled.agent_id, pending.instance_uid, pending.key, enrolled.issued),
        token_sha256=pending.token_sha256,
    )
    CredentialFiles(directory).save(credentials)
    (directory / PENDING).unlink(missing_ok=True)
    return credentials


def _instance(directory: Path) -> str:
    """That of an agent that was enrolled before, here; else a new one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(read_file(directory / FLEET))["instance_uid"]
        if isinstance(kept, str) and kept:
            return kept
    raw = secrets.token_hex(16)
    return "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))


# --- the way there


def authority_of(address: str, sha256: str) -> bytes:
    """The certificate with this SHA-256 (of its DER, hexadecimal) in the chain that the server shows; PEM.

    Only that is found out here. Whether the server has a certificate *of* it, TLS finds out when it is asked for
    real. Raises ControllerError.
    """
    host, port = check_address(address, "controller")
    shown = _shown_chain(host, port)
    for der in shown:
        if secrets.compare_digest(hashlib.sha256(der).hexdigest(), sha256):
            return ssl.DER_cert_to_PEM_cert(der).encode()
    names = ", ".join(hashlib.sha256(der).hexdigest()[:16] + "..." for der in shown[-2:])
    raise ControllerError(
        Trouble.REFUSED,
        f"{address} is not the controller that the token is for: its authority is {names}, not {sha256[:16]}...",
    )


def _shown_chain(host: str, port: int) -> list[bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=CONTACT_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=host) as tls,
        ):
            # Public only since Python 3.13; before, the same method of the object within.
            inner = tls if hasattr(tls, "get_unverified_chain") else cast("Any", tls)._sslobj  # noqa: SLF001
            chain = inner.get_unverified_chain() or []
    except (OSError, ValueError) as error:
        raise ControllerError(Trouble.AWAY, f"{host}:{port}: {error}") from None
    return [item if isinstance(item, bytes) else item.public_bytes(_DER) for item in chain]


_DER: Final = 2
"""_ssl.ENCODING_DER"""


def ask(address: str, authority: bytes | None, token: str, pending: Pending, version: str) -> Enrolled:
    """Trade the token in, at the controller's open port. `authority` None: one of those that the system knows.

    Raises ControllerError.
    """
    options = [("grpc.max_receive_message_length", MESSAGE_MAX), ("grpc.enable_http_proxy", 0)]
    request = enroll_request(
        token,
        certificate_request(pending.key),
        pending.instance_uid,
        pending.idempotency_key,
        socket.gethostname(),
        version,
    )
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(authority), options) as channel:
        try:
            response = control_pb2_grpc.EnrollmentServiceStub(channel).Enroll(request, timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            raise of_rpc(cast("Any", error)) from None
    return enrolled_of(response)


def enrol(address: str, directory: Path, token: str, authority_sha256: str, version: str) -> Credentials:
    """The whole of it. Raises ControllerError, ConfigError and OSError; then the same can be tried again."""
    check_address(address, "controller")
    token_sha256 = hashlib.sha256(token.encode()).hexdigest()
    if (enrolled := _enrolled_by(directory, token_sha256, time.time())) is not None:
        return enrolled
    authority = authority_of(address, authority_sha256) if authority_sha256 else None
    pending = begin(directory, token_sha256)
    try:
        enrolled_now = ask(address, authority, token, pending, version)
    except ControllerError as error:
        if error.trouble in (Trouble.STRANGER, Trouble.BANNED, Trouble.REFUSED):
            (directory / PENDING).unlink(missing_ok=True)  # that is an answer, too
        raise
    return finish(directory, pending, enrolled_now)


def _enrolled_by(directory: Path, token_sha256: str, when: float) -> Credentials | None:
    """What this token was traded for already: a command that is run twice has the same end."""
    credentials = None
    with contextlib.suppress(ControllerError):
        credentials = CredentialFiles(directory).load()
    if credentials is None or credentials.not_after <= when or credentials.token_sha256 != token_sha256:
        return None
    return credentials
