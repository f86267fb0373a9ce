"""A thousand URLs that nobody has seen before, slow servers, dead name servers: known certificates do not notice."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from agent.identity.model import Credential, Unreachable
from agent.stir.source import FLIGHTS_MAX, WAITERS_MAX
from tests.fakes.certificate_server import HOST, page, silence
from tests.fakes.waiting import until
from tests.stir.fetching import Names, bench, chain, laboratory, trust

STRANGERS = 1000


def good(answer: object) -> bool:
    return isinstance(answer, Credential) and not answer.fault


def signer() -> bytes:
    return chain(laboratory().signer)


def test_thousand_urls_of_a_silent_host_delay_no_known_certificate_and_no_renewal(tmp_path: Path) -> None:
    async def main() -> None:
        names = Names({HOST: ["127.0.0.1"], "evil.example.net": ["127.0.0.1"]})
        pages = {"/good.pem": page(signer(), headers={"Cache-Control": "max-age=300"})}
        pages |= {f"/{n}.pem": silence for n in range(STRANGERS)}
        async with bench(pages, tmp_path, names, max_fetches=8, fetch_seconds=0.5) as at:
            known = at.server.url("/good.pem")
            assert good(await at.ask("/good.pem"))
            evil = [at.server.url(f"/{n}.pem", "evil.example.net") for n in range(STRANGERS)]
            asking = [asyncio.create_task(at.source.obtain([url], 0.2)) for url in evil]
            await until(lambda: at.count("in_flight") > 100)
            begun = time.perf_counter()
            for _ in range(1000):
                assert at.source.peek([known])
            assert time.perf_counter() - begun < 1.0

            at.clocks.advance(299)  # its renewal finds a place, although all strangers' are taken
            assert at.source.peek([known])
            await until(lambda: at.server.asked["/good.pem"] == 2)

            answers = [answer for each in await asyncio.gather(*asking) for answer in each.values()]
            assert len(answers) == STRANGERS
            assert all(isinstance(answer, Unreachable) for answer in answers)
            await until(lambda: at.count("in_flight") == 0)
            assert at.server.most_connections <= 8
            assert good((at.source.peek([known]) or {})[known])

    asyncio.run(main())


def test_many_hosts_cannot_take_the_place_of_a_known_one(tmp_path: Path) -> None:
    """Wildcard names: every URL has a host of its own, so that no bound per host helps."""

    async def main() -> None:
        hosts = [f"h{n}.example.net" for n in range(200)]
        names = Names({HOST: ["127.0.0.1"], **{host: ["127.0.0.1"] for host in hosts}})
        pages = {"/good.pem": page(signer()), "/good2.pem": page(signer()), "/bad.pem": silence}
        async with bench(pages, tmp_path, names, max_fetches=4, fetch_seconds=0.5) as at:
            assert good(await at.ask("/good.pem"))
            asking = [asyncio.create_task(at.source.obtain([at.server.url("/bad.pem", host)], 0.1)) for host in hosts]
            await until(lambda: at.count("in_flight") == len(hosts))
            assert good(await at.ask("/good2.pem"))
            assert at.count("in_flight")  # the strangers were still there
            await asyncio.gather(*asking)
            await until(lambda: at.count("in_flight") == 0)

    asyncio.run(main())


def test_name_servers_that_never_answer_keep_nobody_waiting(tmp_path: Path) -> None:
    async def main() -> None:
        hang = threading.Event()

        class Tarpit(Names):
            def look_up(self, host: str, port: int) -> list[str]:
                if host != HOST:
                    hang.wait(30)
                return ["127.0.0.1"]

        pages = {"/good.pem": page(signer()), "/good2.pem": page(signer())}
        async with bench(pages, tmp_path, Tarpit(), max_fetches=4, fetch_seconds=0.3) as at:
            assert good(await at.ask("/good.pem"))
            evil = [at.server.url("/1.pem", f"h{n}.example.net") for n in range(16)]
            answers = await at.source.obtain(evil, 0.1)
            assert {str(answer) for answer in answers.values()} == {str(Unreachable("no answer within 0.1 s"))}
            threads = [thread for thread in threading.enumerate() if thread.name == "resolver"]
            assert len(threads) <= 4
            assert good(await at.ask("/good2.pem"))
            await until(lambda: at.count("in_flight") == 0)
            assert at.count("failed_time") + at.count("failed_overload") == 16
            hang.set()

    asyncio.run(main())


def test_flights_are_bounded_and_what_is_beyond_has_its_answer_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({}, tmp_path, max_fetches=2, fetch_seconds=60.0) as at:
            at.server.pages = {f"/{n}.pem": silence for n in range(FLIGHTS_MAX + 10)}
            urls = [at.server.url(path) for path in at.server.pages]
            answers = [await at.source.obtain([url], 0.0) for url in urls]
            assert list(answers[-1].values()) == [Unreachable("too many certificates are being fetched")]
            assert at.count("in_flight") == FLIGHTS_MAX
            assert at.count("failed_overload") == 10
            await at.source.stop(5.0)
            assert at.count("in_flight") == 0

    asyncio.run(main())


def test_waiters_are_bounded_and_what_is_beyond_has_its_answer_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": silence}, tmp_path) as at:
            url = at.server.url("/1.pem")
            asking = [asyncio.create_task(at.source.obtain([url], 20.0)) for _ in range(WAITERS_MAX)]
            await until(lambda: at.count("waiting") == WAITERS_MAX)
            assert await at.source.obtain([url], 20.0) == {url: Unreachable("too many calls wait for certificates")}
            assert at.count("too_many_waiters") == 1
            await at.source.stop(1.0)
            assert len(await asyncio.gather(*asking)) == WAITERS_MAX

    asyncio.run(main())


def test_certificates_beyond_the_bound_push_out_the_least_used(tmp_path: Path) -> None:
    async def main() -> None:
        pages = {f"/{n}.pem": page(signer()) for n in range(6)}
        async with bench(pages, tmp_path, max_certificates=3) as at:
            for path in pages:
                assert good(await at.ask(path))
                assert good(await at.ask("/0.pem"))
            assert at.source.peek([at.server.url("/0.pem")])
            assert at.source.peek([at.server.url("/1.pem")]) is None
            assert (at.count("good"), at.count("evictions")) == (3, 3)
            assert good(await at.ask("/1.pem"))  # from the disk
            assert at.server.asked["/1.pem"] == 1

    asyncio.run(main())


@pytest.mark.slow
def test_hundreds_of_certificates_are_assessed_again_while_the_loop_goes_on(tmp_path: Path) -> None:
    """The slowest turn of the loop is bounded generously: it shares two cores with the server, and with other tests."""

    async def main() -> None:
        pages = {f"/{n}.pem": page(signer()) for n in range(300)}
        async with bench(pages, tmp_path, fetch_seconds=60.0) as at:
            found = await asyncio.gather(*(at.source.obtain([at.server.url(path)], 60.0) for path in pages))
            assert all(good(answer) for answers in found for answer in answers.values())
            adopting = asyncio.create_task(at.source.adopt(trust(crl=False)))
            slowest = 0.0
            while not adopting.done():
                begun = time.perf_counter()
                await asyncio.sleep(0)
                slowest = max(slowest, time.perf_counter() - begun)
            assert at.count("assessed_again") == len(pages)
            assert slowest < 0.5

    asyncio.run(main())
