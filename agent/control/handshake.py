"""Why a handshake with the controller fails: gRPC says that it did, and nearly nothing of why. An edge: one connection.

Most often it is a clock. A certificate that is not yet valid, or not any more, shows how far this host's clock is from
that of the controller, which has made it; and a controller that hangs up as soon as it has seen our certificate does
not like that one. Nothing is believed here, it only becomes words.
"""

import socket
import ssl
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from cryptography import x509

from agent.control.settings import check_address

CONTACT_SECONDS: Final = 5.0
SHOWN_MAX: Final = 1 << 16
"""Bytes of a certificate that are looked at."""

_NOT_YET: Final = 9
_ENDED: Final = 10
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL."""
_DER: Final = 2
"""_ssl.ENCODING_DER"""


class Fault(NamedTuple):
    """In words, "" where there is none; and whether clocks differ for sure."""

    words: str = ""
    clocks: bool = False


NONE: Final = Fault()


def fault_of(address: str, identity: Path, trust: bytes, now: float) -> Fault:
    """What is wrong with the handshake; NONE where that is not it. Blocks; never raises.

    `identity` is a file with our key and certificate, `trust` whom we believe (PEM), `now` epoch seconds.
    """
    try:
        host, port = check_address(address, "controller")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=trust.decode("ascii"))
        context.load_cert_chain(identity)
        context.set_alpn_protocols(["h2"])
    except (OSError, ValueError):
        return NONE  # whoever opens a channel says what is wrong with these
    try:
        with socket.create_connection((host, port), timeout=CONTACT_SECONDS) as connection:
            return _shaken(context, connection, host, now)
    except (OSError, ValueError):
        return NONE


def _shaken(context: ssl.SSLContext, connection: socket.socket, host: str, now: float) -> Fault:
    try:
        with context.wrap_socket(connection, server_hostname=host, do_handshake_on_connect=False) as tls:
            try:
                tls.do_handshake()
            except ssl.SSLCertVerificationError as error:
                return _unverified(tls, error, now)
            # A server says nothing of how it liked our certificate: it goes on, or it hangs up.
            return NONE if tls.recv(1) else REFUSED
    except ConnectionResetError:
        return REFUSED
    except ssl.SSLError as error:
        return REFUSED if "ALERT" in (error.reason or "") else NONE


REFUSED: Final = Fault(
    "the controller hangs up when it has seen this agent's certificate: its clock is wrong, the certificate has ended, "
    "or its authority is another one"
)


def _unverified(tls: ssl.SSLSocket, error: ssl.SSLCertVerificationError, now: float) -> Fault:
    if error.verify_code not in (_NOT_YET, _ENDED):
        return Fault(f"the controller's certificate is of no authority that this agent knows: {error.verify_message}")
    begins, ends = 0.0, 0.0
    if (shown := _shown(tls)) is not None:
        begins, ends = shown.not_valid_before_utc.timestamp(), shown.not_valid_after_utc.timestamp()
    return Fault(clock_fault(begins, ends, now, error.verify_message), clocks=True)


def clock_fault(begins: float, ends: float, now: float, said: str) -> str:
    """Words for a controller's certificate that is good from `begins` until `ends`, and not `now`; epoch seconds."""
    if now < begins:
        return (
            f"the controller's certificate is not yet valid; this host's clock is at least {span(begins - now)} behind "
            "the controller's"
        )
    if 0.0 < ends <= now:
        return (
            f"the controller's certificate ended {span(now - ends)} ago by this host's clock, which is ahead of the "
            "controller's, unless the controller does not renew it"
        )
    return f"the controller's certificate: {said} by this host's clock"


def _shown(tls: ssl.SSLSocket) -> x509.Certificate | None:
    """The one that the server has shown, first of its chain."""
    # Public only since Python 3.13; before, the same method of the object within.
    inner = tls if hasattr(tls, "get_unverified_chain") else cast("Any", tls)._sslobj  # noqa: SLF001
    chain = inner.get_unverified_chain() or []
    if not chain:
        return None
    der = chain[0] if isinstance(chain[0], bytes) else chain[0].public_bytes(_DER)
    return x509.load_der_x509_certificate(der) if len(der) <= SHOWN_MAX else None


def span(seconds: float) -> str:
    """ "2 h 5 min", "3 d 4 h", "40 s"."""
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    whole = max(0, round(seconds))
    for n, (name, size) in enumerate(units):
        if whole >= size:
            first, rest = divmod(whole, size)
            smaller = units[n + 1 : n + 2]
            more = rest // smaller[0][1] if smaller else 0
            return f"{first} {name} {more} {smaller[0][0]}" if more else f"{first} {name}"
    return "0 s"
