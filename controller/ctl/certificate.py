"""`sbcctl certificate`: an operator's certificate instead of the login token, and a new one before it ends.

The private key is made here and does not leave this host.
"""

import argparse
import os
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from controller.ctl.commands import finish
from controller.ctl.output import OK, at, print_json
from controller.ctl.profile import profile_of, resolve

if TYPE_CHECKING:
    from controller.ctl.profile import Access
    from sbcedge.fleet.v1 import fleet_pb2

EXAMPLES: Final = """\
sbcctl certificate controller.example.net:7443             the port for whoever has a certificate
sbcctl certificate                           a new one, before it ends: put it into cron"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument(
        "address", metavar="HOST:PORT", nargs="?", help="ask there from now on (default: as now, if that is mTLS)"
    )
    finish(parser, EXAMPLES, run)


def run(args: argparse.Namespace) -> int:
    """Returns 0 when it is kept, and has worked once."""
    from agent.control.credentials import certificate_request, new_key  # noqa: PLC0415  (`--help` is quick)
    from agent.control.settings import check_address  # noqa: PLC0415
    from agent.model import ConfigError  # noqa: PLC0415
    from controller.ctl.asking import reaching  # noqa: PLC0415
    from controller.ctl.login import store  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    folder, access = profile_of(args, os.environ), resolve(args)
    if args.address is None and not access.identity:
        raise ConfigError(
            "--address", "HOST:PORT is missing: the controller's port for certificates, 7443 unless changed"
        )
    address = args.address or access.controller
    check_address(address, "HOST:PORT")
    key = new_key()
    with reaching(access) as fleet:
        request = pb.IssueOperatorCertificateRequest(certificate_request=certificate_request(key))
        issued = fleet.access.IssueOperatorCertificate(request)
    fresh = _with(access, address, key, issued)
    with reaching(fresh) as fleet:
        fleet.policy.ListPolicies(pb.ListPoliciesRequest(limit=1))
    store(folder, fresh)
    if args.json:
        print_json({"controller": address, "not_after": issued.not_after.ToJsonString(), "kept_in": str(folder)})
    else:
        print(f"certificate until {at(issued.not_after)}, kept in {folder}; asking {address} from now on")
    return OK


def _with(access: "Access", address: str, key: bytes, issued: "fleet_pb2.IssueOperatorCertificateResponse") -> "Access":
    chain = "".join(map(ssl.DER_cert_to_PEM_cert, issued.certificate_chain))
    trust = "".join(map(ssl.DER_cert_to_PEM_cert, issued.trust_bundle)).encode()
    return replace(access, controller=address, authority=trust, token="", identity=key + chain.encode())
