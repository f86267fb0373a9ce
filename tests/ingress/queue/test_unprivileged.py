"""The queue and the guard in a process of user nobody, with exactly the two capabilities that it needs."""

import asyncio
import tempfile
from pathlib import Path

import pytest

from tests.fakes.calls import invite
from tests.fakes.nobody import as_nobody
from tests.fakes.queue_process import queue_process
from tests.ingress.queue.wire import CALLER, PORT, SBC, received, received_from, wire

pytestmark = pytest.mark.kernel

POLICY = f"""\
generation = 1
[[trunks]]
id = "peer"
sources = ["{CALLER}"]
[[limits]]
name = "calls"
scope = "trunk"
rate = 1
window_seconds = 3600
burst = 1
"""


def test_calls_are_screened_and_floods_cut_off_without_root() -> None:
    async def scenario() -> None:
        raw = invite()
        net.phone.sendto(raw, (SBC, PORT))
        assert await received(net.proxy) == raw
        net.phone.sendto(invite(), (SBC, PORT))
        answer, source = await received_from(net.phone)
        assert answer.startswith(b"SIP/2.0 503 ")
        assert source == (SBC, PORT)

    with wire() as net, tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        config = "[queue]\n[kernel]\nflood_rate = 1\nflood_burst = 20\n"
        python = as_nobody("net_admin", "net_raw")
        with queue_process(net.sbc, Path(name), config, POLICY, python=python) as agent:
            status = Path(f"/proc/{agent.process.pid}/status").read_text()
            assert "\nUid:\t65534\t65534\t65534\t65534\n" in status
            assert "\nCapEff:\t0000000000003000\n" in status
            asyncio.run(scenario())
            for _ in range(80):  # the bucket fills by one a second meanwhile
                net.phone.sendto(invite(), (SBC, PORT))
            assert agent.counters()["kernel_flood"] > 20
