"""Verifying and signing calls: our redirect server beside Kamailio with its module secsipid, on the same calls.

As in `redirect`: INVITEs by UDP, answered with 302; CPU time of the server process per call, each on a core of its own.

verify  signed calls, one in ten badly: 438. Ours has the certificate in memory; Kamailio in the module's cache, which
        is a file per URL, or, as `file`, under a name that is written in its configuration, whatever the URL says.
sign    calls without Identity, whose answer brings one; Kamailio reads the key from its file, the faster of its ways.
"""

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from agent.identity.signing import Signer
from agent.stir.lab_certificates import DAY, tls_draft
from tests.benchmarks.messages import invite
from tests.benchmarks.redirect import (
    ROOT,
    Maker,
    drive,
    free_port,
    kamailio_processes,
    measure,
    one_core,
)
from tests.integration.peers import KAMAILIO_MODULES
from tests.integration.stir.laboratory import ORIGID, PORT, Lab, make_lab

URL_PATH: Final = "/certificates/shaken/2026/3f9c2d41-7a5e-4b1f-9d0c-8e6a5b4c3d2e-spc-1234.pem"
CALLS: Final = 4_000
ROUNDS: Final = 5
BAD_EVERY: Final = 10

VERIFY: Final = (
    'if (!secsipid_check_identity("{certificate}")) {{ sl_send_reply("438", "Invalid Identity Header"); exit; }}'
)
SIGN: Final = """\
if (!secsipid_build_identity("$(fU{{s.strip,1}})", "$(rU{{s.strip,1}})", "C", "", "{url}", "{key}")) {{
        sl_send_reply("500", "Not Signed"); exit;
    }}
    append_to_reply("Identity: $secsipid(val)\\r\\n");"""

KAMAILIO: Final = """\
#!KAMAILIO
debug=0
log_stderror=yes
fork=yes
children=1
auto_aliases=no
disable_tcp=yes
disable_sctp=yes
socket_workers=1
listen=udp:127.0.0.1:{port}
loadmodule "sl.so"
loadmodule "pv.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "secsipid.so"
modparam("secsipid", "expire", 60)
modparam("secsipid", "cache_dir", "{cache}")
modparam("secsipid", "cache_expire", 36000)
request_route {{
    if ($rm == "ACK") {{ exit; }}
    if ($rm != "INVITE") {{ sl_send_reply("405", "Method Not Allowed"); exit; }}
    {work}
    $rd = "core.example.net";
    $rp = "5060";
    append_to_reply("Contact: <$ru>\\r\\n");
    sl_send_reply("302", "Moved Temporarily");
}}
"""


def url_of(lab: Lab) -> str:
    """Where the certificate of the calls is; as long as those of carriers are."""
    return f"https://{lab.host}:{PORT}{URL_PATH}"


def maker(lab: Lab, *, signed: bool) -> Maker:
    """Calls, signed just before they are made, one in BAD_EVERY with a bit of its signature changed."""
    signer = Signer(lab.made.signer.key, url_of(lab))

    def make(number: int, port: int) -> tuple[list[bytes], list[bytes]]:
        invites, acks, iat = [], [], int(time.time())
        for i in range(CALLS):
            calling, called = f"12025{i % 600_000:06d}", f"13035{i * 7 % 600_000:06d}"
            raw = invite(
                calling,
                called,
                call_id=f"{i:08d}-{number}@127.0.0.1",
                branch=f"z9hG4bK{i:08d}{number}",
                source="127.0.0.1",
                identity=False,
            ).replace(b"127.0.0.1:5060", b"127.0.0.1:%d" % port)
            rows = raw.split(b"\r\n")
            kept = [rows[0].replace(b"INVITE", b"ACK", 1), rows[1], rows[2], rows[3], rows[5], b"CSeq: 1 ACK", rows[4]]
            if signed:
                value = signer.sign(calling, (called,), "A", ORIGID, iat)
                rows.insert(9, b"Identity: " + (spoiled(value) if i % BAD_EVERY == 0 else value))
            invites.append(b"\r\n".join(rows))
            acks.append(b"\r\n".join(kept))
        return invites, acks

    return make


def spoiled(value: bytes) -> bytes:
    """The same with another signature."""
    at = value.index(b".", value.index(b".") + 1) + 40
    return value[:at] + (b"B" if value[at : at + 1] == b"A" else b"A") + value[at + 1 :]


@contextmanager
def kamailio(folder: Path, work: str) -> Iterator[tuple[int, list[int]]]:
    """Kamailio with one UDP worker that does `work` with every INVITE: its port and its processes."""
    port, config, log = free_port(), folder / "secsipid.cfg", folder / "kamailio.log"
    config.write_text(KAMAILIO.format(port=port, work=work, cache=folder / "cache"))
    with one_core(0):
        process = subprocess.Popen(
            ["kamailio", "-f", str(config), "-m", "256", "-M", "16", "-x", "fm", "-X", "fm", "-DD", "-E",
             "-Y", str(folder)],
            stdout=subprocess.DEVNULL, stderr=log.open("w"),
        )  # fmt: skip
    try:
        yield port, kamailio_processes(process, port, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)


@contextmanager
def ours(lab: Lab, what: str) -> Iterator[tuple[int, list[int]]]:
    """Our server: its port and its process. `what`: verify or sign."""
    with one_core(0):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.identity_server", what, str(lab.folder), lab.host],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), [process.pid]
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=10)


def world(folder: Path) -> Lab:
    """Keys and certificates, and Kamailio's cache as it is after it has fetched ours."""
    lab = make_lab(folder)
    https = lab.https_root.issue(tls_draft([lab.host], time.time(), DAY))
    (folder / "https.pem").write_bytes(https.pem)
    (folder / "https.key").write_bytes(https.key_pem)
    cache = folder / "cache"
    cache.mkdir()
    (cache / url_of(lab).replace("://", "_").replace("/", "_")).write_bytes(lab.made.signer.pem)
    return lab


@dataclass(frozen=True)
class Compared:
    """Microseconds of CPU per call of each server, and how many times as much as ours each of Kamailio's ways takes."""

    cpu_us: dict[str, float]
    ratios: dict[str, float]


def compare(what: str, rounds: int = ROUNDS) -> Compared:
    """Medians over rounds in which "ours" and Kamailio's ways take turns; only "ours" where the module is missing."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lab = world(folder)
        servers = {"ours": stack.enter_context(ours(lab, what))}
        for name, work in works(lab, what).items():
            own = folder / name
            shutil.copytree(folder / "cache", own / "cache")
            servers[name] = stack.enter_context(kamailio(own, work))
        stack.enter_context(one_core(1))
        make = maker(lab, signed=what == "verify")
        for port, _ in servers.values():
            drive(port, 0, make)
            check(what, port, make)
        found = [
            {name: measure(port, pids, number, make) for name, (port, pids) in servers.items()}
            for number in range(1, rounds + 1)
        ]
    if any(one.statuses != row["ours"].statuses for row in found for one in row.values()):
        raise RuntimeError(f"the servers decide differently: {found}")
    return Compared(
        {name: median(row[name].cpu_us for row in found) for name in servers},
        {name: median(row[name].cpu_us / row["ours"].cpu_us for row in found) for name in servers},
    )


def works(lab: Lab, what: str) -> dict[str, str]:
    """What Kamailio does, in each of its ways; none where the module is not installed."""
    if shutil.which("kamailio") is None or not any((path / "secsipid.so").exists() for path in KAMAILIO_MODULES):
        return {}
    if what == "sign":
        return {"kamailio": SIGN.format(url=url_of(lab), key=lab.file("signer.key"))}
    return {
        "kamailio": VERIFY.format(certificate=""),
        "file": VERIFY.format(certificate=lab.file("signer.pem")),
    }


def check(what: str, port: int, make: Maker) -> None:
    """Whether a call's answer brings an Identity, or does not. Raises if it is the other way round."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(2.0)
        sock.sendto(make(99, sock.getsockname()[1])[0][1], ("127.0.0.1", port))
        answer = sock.recv(65_535)
        if not answer.startswith(b"SIP/2.0 302") or (b"\r\nIdentity: ey" in answer) is not (what == "sign"):
            raise RuntimeError(f"a server does not do what is measured: {answer!r}")


if __name__ == "__main__":
    for kind in ("verify", "sign"):
        print(kind, compare(kind))
