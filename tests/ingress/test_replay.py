"""From captures to decisions: counts, clock, transports, several files, damage. Frames are built byte by byte."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.calls.attempts import Seen
from agent.ingress.counts import MAX_NAMES, OTHERS
from agent.ingress.recognition import address_text
from agent.ingress.replay import (
    MAX_DISORDER,
    CaptureClock,
    FileCounts,
    Outcome,
    Replay,
)
from agent.model import Refuse
from agent.policy.compile import compile_policy
from agent.screening import Screening
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.ingress.frames import CLIENT6, SERVER6, ethernet, ipv4, ipv6, pcap, tcp, udp


def message(number: int, method: str = "INVITE", *, branch: str = "", body: bytes = b"", cseq: int = 1) -> bytes:
    return (
        f"{method} sip:+13035550199@example.com SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{branch or number}\r\n"
        f"From: <sip:+12015550123@example.com>;tag={number}\r\nTo: <sip:+13035550199@example.com>\r\n"
        f"Call-ID: {number}@example.com\r\nCSeq: {cseq} {method}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def response(number: int, status: str) -> bytes:
    return f"SIP/2.0 {status}".encode() + message(number)[message(number).index(b"\r\n") :]


def screening(**policy: Any) -> Screening:
    return Screening(compile_policy(pb.Policy(**policy), {}))


def limit(rate: float, burst: float = 1) -> dict[str, Any]:
    return {"limits": [pb.Limit(name="rate", scope=pb.SCOPE_GLOBAL, rate=rate, burst=burst)]}


def replay(
    folder: Path,
    *captures: bytes,
    screenings: Sequence[Screening] = (),
    ports: frozenset[int] = frozenset(),
) -> tuple[list[Outcome], list[FileCounts]]:
    paths = [folder / f"{index}.pcap" for index in range(len(captures))]
    for path, content in zip(paths, captures, strict=True):
        path.write_bytes(content)
    run = Replay(screenings or [screening()], ports)
    outcomes = list(run.run(paths))
    return outcomes, run.files


def frames(*payloads: bytes) -> list[bytes]:
    return [ethernet(ipv4(udp(payload))) for payload in payloads]


def refused(outcomes: list[Outcome]) -> list[bool]:
    return [isinstance(o.decisions[0].verdict.action, Refuse) for o in outcomes if o.decisions[0]]


def test_messages_are_counted_by_method_status_and_transport(tmp_path: Path) -> None:
    _, (counts,) = replay(
        tmp_path,
        pcap(
            frames(
                message(1),
                message(1),
                message(2),
                message(2, "BYE"),
                message(3, "OPTIONS"),
                response(1, "200 OK"),
                response(1, "200 Fine"),
                response(1, "100 Trying"),
                b"\r\n\r\n",
                b"\0" * 4,
                b"INVITE  sip:a SIP/2.0\r\n\r\n",
            )
        ),
    )
    assert counts.packets == 11
    assert counts.methods == {"INVITE": 3, "BYE": 1, "OPTIONS": 1}
    assert counts.responses == {"200": 2, "100": 1}
    assert (counts.invites, counts.attempts, counts.sip_messages) == (3, 2, 8)
    assert (counts.parse_errors, counts.not_sip) == (1, 2)
    assert counts.transports == {"udp": 8}
    assert counts.first == 1e9
    assert counts.last == pytest.approx(1e9 + 0.010)
    assert counts.whole


def test_repeats_count_once_and_get_no_second_verdict(tmp_path: Path) -> None:
    outcomes, (counts,) = replay(
        tmp_path, pcap(frames(message(1), message(1), message(1, branch="retry", cseq=2), message(2)))
    )
    assert [o.decisions[0].seen for o in outcomes if o.decisions[0]] == [Seen.NEW, Seen.NEW]
    assert (counts.invites, counts.attempts) == (4, 2)


def test_limits_run_on_the_clock_of_the_capture(tmp_path: Path) -> None:
    slow = pcap(frames(*map(message, range(5))), step=1.1)
    fast = pcap(frames(*map(message, range(5))), step=0.1)
    assert refused(replay(tmp_path, slow, screenings=[screening(**limit(1))])[0]) == [False] * 5
    assert refused(replay(tmp_path, fast, screenings=[screening(**limit(1))])[0]) == [False] + [True] * 4


def test_decisions_carry_the_time_addresses_and_transport_of_the_capture(tmp_path: Path) -> None:
    outcomes, _ = replay(tmp_path, pcap([ethernet(ipv6(udp(message(1))), 0x86DD)], start=1_793_631_600.5))
    decision = outcomes[0].decisions[0]
    assert decision is not None
    assert outcomes[0].when == decision.attempt.when == 1_793_631_600.5
    assert decision.attempt.source == "2001:db8::a"


def test_files_are_one_run_but_counted_apart(tmp_path: Path) -> None:
    first, second = pcap(frames(message(1))), pcap(frames(message(1), message(2)), start=1e9 + 0.5)
    outcomes, counts = replay(tmp_path, first, second, screenings=[screening(**limit(1))])
    assert refused(outcomes) == [False, True]
    assert [(c.invites, c.attempts) for c in counts] == [(1, 1), (2, 1)]


def test_stream_and_fragments_go_on_in_the_next_file(tmp_path: Path) -> None:
    raw, datagram = message(1), udp(message(2))
    first = [ethernet(ipv4(tcp(raw[:200], 1), 6)), ethernet(ipv4(datagram[:160], fragment=0x2000))]
    second = [ethernet(ipv4(tcp(raw[200:], 201), 6)), ethernet(ipv4(datagram[160:], fragment=20))]
    _, counts = replay(tmp_path, pcap(first), pcap(second, start=1e9 + 1))
    assert [c.invites for c in counts] == [0, 2]
    assert [c.reassembled for c in counts] == [0, 1]
    assert [c.fragments for c in counts] == [1, 1]


def test_messages_of_a_tcp_stream_count_once_however_they_are_cut(tmp_path: Path) -> None:
    stream, packets = message(1) + message(2, body=b"x" * 3000) + message(3), []
    for begin in range(0, len(stream), 333):
        packets.append(ethernet(ipv4(tcp(stream[begin : begin + 333], 1001 + begin), 6)))
        packets.append(packets[-1])  # seen twice
    syn = ethernet(ipv4(tcp(b"", 1000, 2), 6))
    _, (counts,) = replay(tmp_path, pcap([syn, *reversed(packets)], step=1e-6))
    assert counts.methods == {"INVITE": 3}
    assert counts.transports == {"tcp": 3}


def test_what_a_stream_holds_behind_a_gap_comes_out_at_the_end(tmp_path: Path) -> None:
    packets = [ethernet(ipv4(tcp(b"", 1000, 2), 6)), ethernet(ipv4(tcp(message(1), 5001), 6))]
    outcomes, (counts,) = replay(tmp_path, pcap(packets))
    assert len(outcomes) == counts.invites == 1


def test_tunnels_vlans_and_fragments_are_counted(tmp_path: Path) -> None:
    inner = ipv4(udp(message(2)))
    outer = inner[:20], inner[20:]
    packets = [
        ethernet(ipv4(udp(message(1))), tags=[(0x8100, 5)]),
        ethernet(ipv4(inner, 4)),
        ethernet(ipv4(outer[0] + outer[1][:100], 4, fragment=0x2000)),
        ethernet(ipv4(outer[1][100:], 4, fragment=15)),
    ]
    _, (counts,) = replay(tmp_path, pcap(packets))
    assert (counts.vlan, counts.tunnels, counts.fragments, counts.reassembled) == (1, 1, 2, 1)
    assert counts.invites == 3


def test_port_option_looks_at_these_ports_only_and_takes_them_for_sip_ports(tmp_path: Path) -> None:
    packets = [ethernet(ipv4(udp(message(n), 4000, port))) for n, port in enumerate((5060, 5070, 6000))]
    packets += [ethernet(ipv4(udp(b"noise", 4000, 5070))), ethernet(ipv4(udp(b"noise", 4000, 5060)))]
    _, (everything,) = replay(tmp_path, pcap(packets))
    _, (chosen,) = replay(tmp_path, pcap(packets), ports=frozenset((5070,)))
    assert (everything.invites, everything.not_sip) == (3, 1)
    assert (chosen.invites, chosen.not_sip) == (1, 1)


def test_two_policies_see_the_same_calls_and_decide_each_for_itself(tmp_path: Path) -> None:
    outcomes, _ = replay(
        tmp_path, pcap(frames(*map(message, range(3)))), screenings=[screening(), screening(**limit(1))]
    )
    verdicts = [[isinstance(d.verdict.action, Refuse) for d in o.decisions if d] for o in outcomes]
    assert verdicts == [[False, False], [False, True], [False, True]]


def test_attempt_that_only_the_second_policy_sees_is_reported_but_not_counted(tmp_path: Path) -> None:
    outcomes, (counts,) = replay(
        tmp_path, pcap(frames(message(1))), screenings=[screening(local_addresses=["192.0.2.10"]), screening()]
    )
    assert counts.attempts == 0
    assert [d is None for d in outcomes[0].decisions] == [True, False]


def test_damaged_file_gives_what_could_be_read_and_the_next_file_is_read(tmp_path: Path) -> None:
    capture = pcap(frames(message(1), message(2)))
    _, (damaged, empty, missing, good) = replay(tmp_path, capture[:-10], b"", b"no capture", capture)
    assert damaged.invites == 1
    assert damaged.damage is not None
    assert damaged.damage.offset == 24 + 16 + len(frames(message(1))[0])
    assert [c.whole for c in (damaged, empty, missing, good)] == [False, False, False, True]
    assert "empty" in empty.error
    assert "not a capture" in missing.error
    assert good.attempts == 1  # the other INVITE was an attempt in the first file already


def test_file_of_an_unknown_link_type_is_an_error_that_says_what_can_be_read(tmp_path: Path) -> None:
    _, (counts,) = replay(tmp_path, pcap(frames(message(1)), linktype=105))
    assert "link type 105" in counts.error
    assert "Ethernet (1)" in counts.error
    assert not counts.whole


def test_packets_cut_by_the_snap_length_are_counted_and_used_as_far_as_they_go(tmp_path: Path) -> None:
    _, (counts,) = replay(tmp_path, pcap(frames(message(1)), snaplen=240))
    assert (counts.truncated, counts.invites) == (1, 1)


def test_names_from_the_wire_are_counted_within_a_bound(tmp_path: Path) -> None:
    _, (counts,) = replay(tmp_path, pcap(frames(*(message(n, f"METHOD{n}") for n in range(MAX_NAMES + 9)))))
    assert len(counts.methods) == MAX_NAMES + 1
    assert counts.methods[OTHERS] == 9


def test_progress_runs_up_to_the_size_of_all_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(pcap(frames(*[bytes(1000)] * 3000)))
    positions: list[int] = []
    for _ in Replay([screening()], progress=positions.append).run(paths):
        pass
    assert positions == sorted(positions)
    assert positions[0] < 2000
    assert len(positions) > 10
    assert positions[-1] == 2 * paths[0].stat().st_size


@given(st.lists(st.floats(0, 1e10), max_size=50))
def test_clock_never_runs_backwards(stamps: list[float]) -> None:
    clock = CaptureClock()
    times = [clock.read(stamp) for stamp in stamps]
    assert times == sorted(times)


def test_clock_stands_still_for_disorder_and_goes_on_at_the_capture_pace_after_a_jump_back() -> None:
    clock = CaptureClock()
    assert [clock.read(t) for t in (100, 101, 100.5, 102)] == [0, 1, 1, 2]
    assert clock.read(50) == 2  # another time altogether
    assert [clock.read(t) for t in (51, 53.5)] == [3, 5.5]
    assert clock.read(53.5 - MAX_DISORDER) == 5.5


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        (bytes([192, 0, 2, 1]), "192.0.2.1"),
        (CLIENT6, "2001:db8::a"),
        (SERVER6, "2001:db8::1"),
        (bytes(10) + b"\xff\xff\xc0\x00\x02\x01", "192.0.2.1"),
    ],
)
def test_addresses_are_written_as_policy_writes_them(packed: bytes, text: str) -> None:
    assert address_text(packed) == text
