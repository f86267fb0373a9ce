"""sipp, a caller that others wrote, makes calls to the redirect server."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.waiting import until
from tests.ingress.redirect.callers import LOOPBACK, declining, serving

SCENARIO = Path(__file__).with_name("refused.xml")
CALLS = 20

pytestmark = pytest.mark.skipif(
    shutil.which("sipp") is None, reason="sipp is not installed (apt-get install sip-tester)"
)


@pytest.mark.parametrize(("transport", "option"), [("udp", "u1"), ("tcp", "t1")])
def test_refusals_are_repeated_over_udp_until_sipp_acknowledges_them(
    transport: str, option: str, tmp_path: Path
) -> None:
    async def run() -> None:
        listen: dict[str, Any] = {transport: (LOOPBACK,)}
        async with serving(declining(), **listen) as server:
            host, port = server.addresses[0][1]
            options = f"-t {option} -i {host} -m {CALLS} -r 200 -nostdin -timeout 20s"
            sipp = await asyncio.create_subprocess_exec(
                "sipp",
                f"{host}:{port}",
                "-sf",
                str(SCENARIO),
                *options.split(),
                cwd=tmp_path,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            async with asyncio.timeout(30):
                output, _ = await sipp.communicate()
            assert sipp.returncode == 0, output.decode(errors="replace")[-3000:]
            await until(lambda: server.counters()["redirect_acknowledged"] == CALLS)
            counters = server.counters()
        if transport == "udp":
            assert counters["redirect_retransmissions"] >= CALLS
        else:
            assert counters["redirect_retransmissions"] == 0
        assert counters["redirect_waiting_for_ack"] == 0

    asyncio.run(run())
