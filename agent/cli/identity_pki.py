"""`sbc-agent identity make-test-pki`: keys and certificates for a laboratory, right ones and wrong ones."""

import argparse
import re
import time
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding

from agent.cli.output import BAD_INPUT, OK, complain, print_table
from agent.files import replace_file
from agent.stir.lab import Laboratory, make_laboratory
from agent.stir.lab_certificates import DAY, Holder, root_draft, self_signed, tls_draft

_TEXT = """\
Makes everything that signing and verifying calls takes in a laboratory, in the folder DIR: authorities, a signer of
calls and wrong ones of each kind, a policy administrator (STI-PA) with its trust list and its revocation list, and the
certificate of the HTTPS server that serves the others. The keys are for tests only."""

_EPILOG = """\
examples:
  sbc-agent identity make-test-pki lab --spc 1234 --host certs.example.net
  sbc-agent identity certificate lab/signer.pem --trust-anchor lab/root.pem

exit codes: 0 done; 1 a file is there already, or cannot be written; 2 wrong usage"""

_CODE = re.compile(r"[0-9A-Z]{1,10}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9.:_-]{1,253}", re.ASCII)
# Beyond this the signer would outlive its authority, which holds for five years.
_DAYS_MAX = 1500


class _File(NamedTuple):
    name: str
    content: bytes
    purpose: str

    @property
    def secret(self) -> bool:
        return self.name.endswith(".key")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "make-test-pki",
        help="make keys and certificates for a laboratory",
        description=_TEXT,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="where to put them; made if it is not there")
    parser.add_argument(
        "--spc", metavar="CODE", type=_code, default="1234", help="service provider code of the signers (default 1234)"
    )
    parser.add_argument(
        "--host",
        metavar="NAME",
        type=_host,
        action="append",
        help="name or address of the HTTPS server; may be given more than once (default localhost, 127.0.0.1, ::1)",
    )
    parser.add_argument(
        "--days", metavar="N", type=_days, default=365, help="how long signers and lists hold (default 365)"
    )
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    parser.set_defaults(identity_run=run)


def _code(text: str) -> str:
    if _CODE.fullmatch(text) is None:
        raise argparse.ArgumentTypeError("must be digits and capital letters, at most ten")
    return text


def _host(text: str) -> str:
    if _HOST.fullmatch(text) is None:
        raise argparse.ArgumentTypeError("must be a host name or an IP address")
    return text


def _days(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) is None or not 1 <= int(text) <= _DAYS_MAX:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {_DAYS_MAX}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 when the files could not be written."""
    when, seconds = time.time(), args.days * DAY
    hosts = args.host or ["localhost", "127.0.0.1", "::1"]
    files = _signing(make_laboratory(args.spc, when, seconds), args.spc) + _https(hosts, when, seconds)
    folder: Path = args.folder
    there = [file.name for file in files if (folder / file.name).exists()]
    if there and not args.force:
        complain(f"{folder / there[0]}: is there already; --force replaces it and the others")
        return BAD_INPUT
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            _write(folder / file.name, file)
    except OSError as error:
        complain(f"{error.filename or folder}: cannot be written: {error.strerror}")
        return BAD_INPUT
    print_table("", ["file", f"in {folder}"], [[file.name, file.purpose] for file in files])
    return OK


def _write(path: Path, file: _File) -> None:
    if file.secret:  # replace_file keeps the mode of what is there: a key is never readable by others, not for a moment
        path.touch(mode=0o600)
        path.chmod(0o600)
    replace_file(path, [file.content])


def _signing(lab: Laboratory, code: str) -> list[_File]:
    authority = lab.intermediate.pem
    return [
        _File("root.pem", lab.root.pem, "authority of SHAKEN certificates: the anchor of trust"),
        _File("root.key", lab.root.key_pem, "its key"),
        _File("intermediate.pem", authority, "authority below root.pem that issued the signers"),
        _File("intermediate.key", lab.intermediate.key_pem, "its key"),
        *_chain("signer", lab.signer, authority, f"signs calls for {code}: serve it at the x5u; verifies"),
        *_chain("expired", lab.expired, authority, "as signer.pem, but it has expired: credential"),
        *_chain("revoked", lab.revoked, authority, "as signer.pem, but crl.pem revokes it: credential"),
        *_chain("foreign", lab.foreign, lab.foreign_root.pem, "as signer.pem, of an unknown authority: credential"),
        _File("foreign-root.pem", lab.foreign_root.pem, "the authority that the trust list does not have"),
        _File("foreign-root.key", lab.foreign_root.key_pem, "its key"),
        _File("pa-root.pem", lab.pa_root.pem, "policy administrator: verifies trust-list.jws"),
        _File("pa-root.key", lab.pa_root.key_pem, "its key"),
        _File("trust-list-signer.pem", lab.pa_signer.pem, "signed trust-list.jws; issued by pa-root.pem"),
        _File("trust-list-signer.key", lab.pa_signer.key_pem, "its key"),
        _File("trust-list.jws", lab.trust_list, "the trust list, sequence 1: root.pem"),
        _File("crl-signer.pem", lab.crl_signer.pem, "verifies crl.pem; issued by pa-root.pem"),
        _File("crl-signer.key", lab.crl_signer.key_pem, "its key"),
        _File(
            "crl.pem",
            lab.crl.public_bytes(Encoding.PEM),
            "revokes revoked.pem, and the serial number of signer.pem as one of foreign-root.pem",
        ),
    ]


def _chain(name: str, holder: Holder, authority: bytes, purpose: str) -> list[_File]:
    return [_File(f"{name}.pem", holder.pem + authority, purpose), _File(f"{name}.key", holder.key_pem, "its key")]


def _https(hosts: list[str], when: float, seconds: float) -> list[_File]:
    authority = self_signed(root_draft("Laboratory HTTPS Root CA", when))
    server = authority.issue(tls_draft(hosts, when, seconds))
    return [
        _File("https-root.pem", authority.pem, "authority of the HTTPS server, for those who fetch from it"),
        _File("https-root.key", authority.key_pem, "its key"),
        _File("https-server.pem", server.pem, f"HTTPS server: {', '.join(hosts)}"),
        _File("https-server.key", server.key_pem, "its key"),
    ]
