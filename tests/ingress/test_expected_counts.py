"""Captures of public projects replay with the counts that tshark 4.0.17 gives, exceptions named below."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.ingress.capture_file import CaptureFile
from agent.ingress.layers import Udp, decode
from agent.ingress.replay import FileCounts, Replay
from agent.model import ParseError
from agent.policy.compile import compile_policy
from agent.screening import Screening
from agent.sip.scan import scan
from sbcedge.policy.v1 import policy_pb2
from tests.conftest import SHARED_DATA

TABLE = SHARED_DATA / "pcap" / "EXPECTED_COUNTS.json"
EXPECTED: dict[str, dict[str, Any]] = json.loads(TABLE.read_text()) if TABLE.is_file() else {}

# Why a capture is not held to tshark's counts; what is expected of it instead stands in a test of its own.
EXCEPTIONS = {
    "pcap/ndpi/fuzz-2006-06-26-2594.pcap": (
        "flipped bits: tshark drops datagrams whose checksum is wrong, a capture on a sending host needs them"
    ),
}

# Attempts where the capture repeats INVITEs: retransmissions and retries after a challenge count once.
ATTEMPTS = {
    "pcap/ndpi/FAX-Call-t38-CA-TDM-SIP-FB-1.pcap": 2,  # both sides of a B2BUA, one of them seen at three places
    "pcap/sipnab/codec-negotiation.pcap": 1,
    "pcap/sngrep/aaa.pcap": 5,  # 11 INVITEs in 7 transactions, two of which repeat a challenged one
}


def counts_of(path: Path) -> tuple[FileCounts, Screening]:
    screening = Screening(compile_policy(policy_pb2.Policy(), {}))
    replay = Replay([screening])
    for outcome in replay.run([path]):
        assert outcome.decisions[0] is not None
    return replay.files[0], screening


@pytest.mark.parametrize("name", EXPECTED or [pytest.param("", marks=pytest.mark.skip("no third-party captures"))])
def test_capture_has_the_messages_that_tshark_counts(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path, expected = SHARED_DATA / name, EXPECTED[name]
    if not path.is_file():
        pytest.skip(f"{name} is not among the captures here")
    counts, screening = counts_of(path)
    assert counts.packets == expected["frames"]
    assert counts.whole
    assert screening.failures == 0
    if name not in EXCEPTIONS:
        assert counts.methods == expected["methods"]
        assert counts.responses == expected["status"]
        assert counts.invites == expected["invite_frames"]
        assert counts.attempts <= expected["initial_invite_frames"]
        assert counts.parse_errors == 0
    assert counts.attempts == ATTEMPTS.get(name, counts.attempts)
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("ndpi/gre.pcapng", "vlan"),
        ("ndpi/gre.pcapng", "tunnels"),
        ("sngrep/ipip.pcap", "tunnels"),
        ("pcapplusplus/sip_reqs.pcap", "tunnels"),
        ("sngrep/ipv6frag.pcap", "reassembled"),
        ("ndpi/http_on_sip_port.pcap", "not_sip"),
        ("zeek/Traces/sip/sip-junk-before-request.pcap", "not_sip"),
    ],
)
def test_what_is_special_about_a_capture_is_counted(shared_data: Path, name: str, what: str) -> None:
    counts, _ = counts_of(shared_data / "pcap" / name)
    assert getattr(counts, what) > 0


def test_fuzzed_capture_gives_about_what_the_original_holds(shared_data: Path) -> None:
    counts, _ = counts_of(shared_data / "pcap/ndpi/fuzz-2006-06-26-2594.pcap")
    assert 40 <= counts.sip_messages <= 81
    assert counts.parse_errors > 0


def test_protos_datagrams_do_not_break_the_scan(shared_data: Path) -> None:
    path = shared_data / "pcap/sipnab/pcap-samples/c07-sip-r2.cap"
    if not path.is_file():
        pytest.skip("c07-sip-r2.cap is not among the captures here")
    payloads = [
        found.payload
        for packet in CaptureFile(path).packets()
        if isinstance(found := decode(packet.linktype, packet.data), Udp)
    ]
    assert len(payloads) == 37
    for payload in payloads:
        try:
            scan(payload)
        except ParseError:
            continue
