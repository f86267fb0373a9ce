"""Certificates by URL: fetched once, remembered, renewed, given up; over real https on loopback."""

import asyncio
import time
from pathlib import Path

import pytest

from agent.identity.model import Credential, Unreachable
from agent.identity.trust import TrustStore
from agent.model import ConfigError
from agent.stir.entries import RETRY_FIRST, RETRY_MOST
from agent.stir.source import URLS_MAX, CertificateSource
from tests.fakes.certificate_server import HOST, after, page, redirect, silence
from tests.fakes.waiting import until
from tests.stir.fetching import Names, bench, chain, laboratory, trust

DAY = 86400.0


def good(answer: object) -> bool:
    return isinstance(answer, Credential) and not answer.fault and answer.spc == "1234"


def signer() -> bytes:
    return chain(laboratory().signer)


# --- the ordinary way


def test_certificate_is_fetched_once_and_then_known(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(signer())}, tmp_path) as at:
            url = at.server.url("/1.pem")
            assert at.source.peek([url]) is None
            answers = await at.source.obtain([url], 20.0)
            assert list(answers) == [url]
            assert good(answers[url])
            assert at.source.peek([url]) == answers
            assert await at.source.obtain([url], 20.0) == answers
            assert at.server.asked == {"/1.pem": 1}
            assert (at.count("fetches"), at.count("misses"), at.count("hits"), at.count("good")) == (1, 1, 2, 1)
            assert at.source.health() == (True, "1 certificates, 0 URLs without one, 0 being fetched")

    asyncio.run(main())


def test_several_urls_of_a_call_are_fetched_at_the_same_time(tmp_path: Path) -> None:
    async def main() -> None:
        both = asyncio.Event()
        pages = {f"/{n}.pem": after(both, page(signer())) for n in (1, 2)}
        async with bench(pages, tmp_path) as at:
            urls = [at.server.url(path) for path in pages]
            asking = asyncio.create_task(at.source.obtain([*urls, urls[0]], 20.0))
            await until(lambda: at.server.asked.total() == 2)
            both.set()
            answers = await asking
            assert list(answers) == urls
            assert all(map(good, answers.values()))

    asyncio.run(main())


def test_call_without_urls_has_its_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({}, tmp_path) as at:
            assert at.source.peek([]) == {}
            assert await at.source.obtain([], 1.0) == {}

    asyncio.run(main())


def test_part_of_the_answers_is_no_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(signer())}, tmp_path) as at:
            assert good(await at.ask("/1.pem"))
            assert at.source.peek([at.server.url("/1.pem"), at.server.url("/2.pem")]) is None

    asyncio.run(main())


def test_redirected_certificate_is_known_by_the_url_of_the_call(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": redirect("/2.pem"), "/2.pem": page(signer())}, tmp_path) as at:
            assert good(await at.ask("/1.pem"))
            assert at.source.peek([at.server.url("/1.pem")])
            assert at.source.peek([at.server.url("/2.pem")]) is None

    asyncio.run(main())


@pytest.mark.parametrize(
    ("holder", "fault"),
    [
        ("foreign", "no anchor of trust vouches for its issuer"),
        ("revoked", "it was revoked"),
    ],
)
def test_certificate_not_to_rely_on_says_why(tmp_path: Path, holder: str, fault: str) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(chain(getattr(laboratory(), holder)))}, tmp_path) as at:
            answer = await at.ask()
            assert isinstance(answer, Credential)
            assert answer.fault.startswith(fault)
            assert at.source.peek([at.server.url("/1.pem")]) == {at.server.url("/1.pem"): answer}

    asyncio.run(main())


def test_body_that_is_no_certificate_is_a_bad_credential(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(b"<html>Welcome to nginx!</html>")}, tmp_path) as at:
            answer = await at.ask()
            assert isinstance(answer, Credential)
            assert answer.fault == "what its URL serves is neither PEM nor DER of a certificate"
            assert at.count("failed_unreadable") == 1

    asyncio.run(main())


# --- one flight


def test_hundred_askers_cost_one_fetch(tmp_path: Path) -> None:
    async def main() -> None:
        go = asyncio.Event()
        async with bench({"/1.pem": after(go, page(signer()))}, tmp_path) as at:
            asking = [asyncio.create_task(at.ask()) for _ in range(100)]
            await until(lambda: at.count("waiting") == 100)
            await until(lambda: at.server.asked.total() == 1)
            go.set()
            answers = await asyncio.gather(*asking)
            assert all(map(good, answers))
            assert at.server.asked.total() == 1
            assert at.count("waiting") == 0

    asyncio.run(main())


def test_fetch_outlives_whoever_waited_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        go = asyncio.Event()
        async with bench({"/1.pem": after(go, page(signer()))}, tmp_path) as at:
            cancelled = asyncio.create_task(at.ask())
            await until(lambda: at.server.asked.total() == 1)
            cancelled.cancel()
            assert await at.ask(within=0.01) == Unreachable("no answer within 0.01 s")
            go.set()
            await until(lambda: at.source.peek([at.server.url("/1.pem")]) is not None)
            assert good(await at.ask())
            assert at.server.asked.total() == 1

    asyncio.run(main())


def test_wait_is_never_longer_than_it_may_be(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": silence, "/2.pem": page(signer())}, tmp_path) as at:
            urls = [at.server.url("/1.pem"), at.server.url("/2.pem")]
            answers = {}
            for within in (0.2, 0.0, -1.0):
                begun = time.monotonic()
                answers = await at.source.obtain(urls, within)
                assert time.monotonic() - begun < max(within, 0) + 0.5
                assert answers[urls[0]] == Unreachable(f"no answer within {within:g} s")
            assert good(answers[urls[1]])
            assert at.count("waits_too_long") == 3

    asyncio.run(main())


def test_too_many_urls_of_one_call_are_not_fetched(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({}, tmp_path) as at:
            urls = [at.server.url(f"/{n}.pem") for n in range(URLS_MAX + 1)]
            answers = await at.source.obtain(urls, 20.0)
            assert answers[urls[-1]] == Unreachable("too many certificates for one call")
            assert answers[urls[0]] == Unreachable("404 Not Found")
            assert len(answers) == len(urls)
            assert at.server.asked.total() == URLS_MAX

    asyncio.run(main())


# --- failures


def test_failure_is_remembered_for_longer_each_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({}, tmp_path) as at:
            pause, asked = RETRY_FIRST, 0
            while pause < 4 * RETRY_MOST:
                assert await at.ask() == Unreachable("404 Not Found")
                asked += 1
                assert at.server.asked.total() == asked
                at.clocks.advance(min(pause, RETRY_MOST) - 0.1)
                assert at.source.peek([at.server.url("/1.pem")]) is not None
                at.clocks.advance(0.1)
                assert at.source.peek([at.server.url("/1.pem")]) is None
                pause *= 2
            at.server.pages["/1.pem"] = page(signer())
            assert good(await at.ask())
            assert at.count("without") == 0
            assert at.count("failed_status") == asked
            assert at.count("negative_hits") == asked

    asyncio.run(main())


def test_refused_url_is_never_connected_to(tmp_path: Path) -> None:
    async def main() -> None:
        names = Names({HOST: ["10.0.0.1"]})
        async with bench({}, tmp_path, names) as at:
            why = f"{HOST}: 10.0.0.1 is of 10.0.0.0/8 (private use, RFC 1918)"
            assert await at.ask() == Unreachable(why)
            url = f"http://{HOST}/1.pem"
            assert await at.source.obtain([url], 1.0) == {url: Unreachable("URL is not https")}
            assert at.count("failed_refused") == 1
            assert not at.server.names

    asyncio.run(main())


def test_loopback_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(signer())}, tmp_path, allow_addresses=()) as at:
            answer = await at.ask()
            assert answer == Unreachable(f"{HOST}: 127.0.0.1 is of 127.0.0.0/8 (loopback, RFC 1122)")
            assert not at.server.names

    asyncio.run(main())


def test_system_resolver_and_host_name_are_used_without_a_name_service_of_ours(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(signer())}, tmp_path, allow_addresses=("127.0.0.0/8", "::1/128")) as at:
            source = CertificateSource(at.settings, at.faults.append)
            await source.start()
            await source.adopt(trust())
            url = at.server.url("/1.pem", "localhost")
            assert good((await source.obtain([url], 20.0))[url])
            await source.stop(1.0)

    asyncio.run(main())


# --- renewal


def test_certificate_in_use_is_renewed_before_its_time_and_no_call_waits(tmp_path: Path) -> None:
    async def main() -> None:
        pages = {"/1.pem": page(signer(), headers={"Cache-Control": "max-age=300"})}
        async with bench(pages, tmp_path) as at:
            url = at.server.url("/1.pem")
            assert good(await at.ask())
            at.clocks.advance(239)
            assert at.source.peek([url])
            assert not at.count("renewals")
            at.clocks.advance(2)
            for _ in range(100):
                assert at.source.peek([url])
            await until(lambda: at.server.asked.total() == 2 and not at.count("in_flight"))
            assert at.count("renewals") == 1
            at.clocks.advance(239)
            assert at.source.peek([url])
            assert at.server.asked.total() == 2

    asyncio.run(main())


def test_certificate_without_use_is_fetched_again_after_its_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(signer())}, tmp_path) as at:
            assert good(await at.ask())
            at.clocks.advance(DAY)
            assert at.source.peek([at.server.url("/1.pem")]) is None
            assert good(await at.ask())
            assert at.server.asked.total() == 2

    asyncio.run(main())


def test_certificate_stays_in_use_for_a_day_while_its_server_fails(tmp_path: Path) -> None:
    async def main() -> None:
        pages = {"/1.pem": page(signer(), headers={"Cache-Control": "max-age=300"})}
        async with bench(pages, tmp_path) as at:
            url = at.server.url("/1.pem")
            assert good(await at.ask())
            at.server.pages["/1.pem"] = page(b"", 503)
            at.clocks.advance(300)
            assert at.source.peek([url]) is None
            assert good(await at.ask())  # the first call after its time waits for the server's answer
            assert at.source.peek([url]) is not None  # the others do not
            assert at.count("failed_status") == 1
            at.clocks.advance(RETRY_FIRST * 0.9)
            assert at.source.peek([url]) is not None  # and one of them sets off another try
            await until(lambda: at.server.asked.total() == 3 and not at.count("in_flight"))
            at.clocks.advance(DAY - 301 - RETRY_FIRST * 0.9)
            assert good(await at.ask())
            at.clocks.advance(2)
            assert await at.ask() == Unreachable("503 Service Unavailable")
            assert at.count("stale_hits") >= 2

    asyncio.run(main())


@pytest.mark.parametrize("directive", ["must-revalidate", "no-cache", "no-store", "s-maxage=300"])
def test_server_may_forbid_that_its_certificate_is_used_beyond_its_time(tmp_path: Path, directive: str) -> None:
    async def main() -> None:
        pages = {"/1.pem": page(signer(), headers={"Cache-Control": f"max-age=300, {directive}"})}
        async with bench(pages, tmp_path) as at:
            assert good(await at.ask())
            at.server.pages["/1.pem"] = page(b"", 503)
            at.clocks.advance(300)
            assert await at.ask() == Unreachable("503 Service Unavailable")

    asyncio.run(main())


def test_error_page_in_place_of_a_certificate_does_not_replace_it(tmp_path: Path) -> None:
    async def main() -> None:
        pages = {"/1.pem": page(signer(), headers={"Cache-Control": "max-age=300"})}
        async with bench(pages, tmp_path) as at:
            assert good(await at.ask())
            at.server.pages["/1.pem"] = page(b"<html>Down for maintenance</html>")
            at.clocks.advance(300)
            assert good(await at.ask())
            assert at.count("failed_unreadable") == 1

    asyncio.run(main())


def test_another_certificate_replaces_the_one_before(tmp_path: Path) -> None:
    async def main() -> None:
        pages = {"/1.pem": page(signer(), headers={"Cache-Control": "max-age=300"})}
        async with bench(pages, tmp_path) as at:
            assert good(await at.ask())
            at.server.pages["/1.pem"] = page(chain(laboratory().foreign))
            at.clocks.advance(300)
            answer = await at.ask()
            assert isinstance(answer, Credential)
            assert answer.fault.startswith("no anchor of trust")
            assert (at.count("good"), at.count("without")) == (0, 1)

    asyncio.run(main())


def test_slow_renewal_keeps_no_call_from_the_certificate_that_is_known(tmp_path: Path) -> None:
    async def main() -> None:
        pages = {"/1.pem": page(signer(), headers={"Cache-Control": "max-age=300"})}
        async with bench(pages, tmp_path) as at:
            assert good(await at.ask())
            at.server.pages["/1.pem"] = silence
            at.clocks.advance(301)
            assert good(await at.ask(within=0.05))
            assert at.count("waits_too_long") == 1

    asyncio.run(main())


# --- trust


def test_nobody_is_trusted_before_a_trust_store_is_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(signer())}, tmp_path) as at:
            trusting = [at.source.trusting]
            await at.source.adopt(TrustStore(()))
            assert [*trusting, at.source.trusting] == [True, False]
            answer = await at.ask()
            assert isinstance(answer, Credential)
            assert answer.fault.startswith("no anchor of trust")

    asyncio.run(main())


def test_everything_cached_is_assessed_again_under_a_new_store(tmp_path: Path) -> None:
    async def main() -> None:
        pages = {"/good.pem": page(signer()), "/revoked.pem": page(chain(laboratory().revoked))}
        async with bench(pages, tmp_path) as at:
            await at.source.adopt(trust(crl=False))
            urls = [at.server.url(path) for path in pages]
            answers = await at.source.obtain(urls, 20.0)
            assert all(map(good, answers.values()))

            await at.source.adopt(trust())
            known = at.source.peek(urls)
            assert known is not None
            assert good(known[urls[0]])
            revoked = known[urls[1]]
            assert isinstance(revoked, Credential)
            assert revoked.fault.startswith("it was revoked")
            assert (at.count("good"), at.count("without")) == (1, 1)

            await at.source.adopt(TrustStore(()))
            assert at.count("good") == 0
            await at.source.adopt(trust(crl=False))
            known = at.source.peek(urls)
            assert known is not None
            assert all(map(good, known.values()))
            assert at.server.asked.total() == 2
            assert at.count("assessed_again") == 6

    asyncio.run(main())


def test_certificate_on_its_way_while_trust_changes_is_assessed_under_the_new_store(tmp_path: Path) -> None:
    async def main() -> None:
        go = asyncio.Event()
        async with bench({"/1.pem": after(go, page(chain(laboratory().revoked)))}, tmp_path) as at:
            await at.source.adopt(trust(crl=False))
            asking = asyncio.create_task(at.ask())
            await until(lambda: at.server.asked.total() == 1)
            await at.source.adopt(trust())
            go.set()
            answer = await asking
            assert isinstance(answer, Credential)
            assert answer.fault.startswith("it was revoked")

    asyncio.run(main())


# --- life


def test_source_that_does_not_run_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({}, tmp_path) as at:
            source = at.another()
            url = at.server.url("/1.pem")
            assert source.health() == (False, "not started yet")
            assert source.peek([url]) is None
            answers = await source.obtain([url], 1.0)
            assert answers == {url: Unreachable("certificates are not fetched: not started yet")}

    asyncio.run(main())


def test_stop_ends_fetches_and_who_waits_has_an_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": silence}, tmp_path) as at:
            asking = [asyncio.create_task(at.ask()) for _ in range(10)]
            await until(lambda: at.server.asked.total() == 1)
            await at.source.stop(1.0)
            assert await asyncio.gather(*asking) == [Unreachable("the agent is stopping")] * 10
            assert at.count("in_flight") == 0
            assert await at.ask() == Unreachable("certificates are not fetched: the agent is stopping")
            await at.source.start()
            at.server.pages["/1.pem"] = page(signer())
            assert good(await at.ask())

    asyncio.run(main())


def test_wrong_https_ca_is_an_error_of_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({}, tmp_path) as at:
            at.settings.https_ca.write_bytes(b"no certificate")  # type: ignore[union-attr]
            with pytest.raises(ConfigError, match="https_ca"):
                await at.another().start()

    asyncio.run(main())


def test_fault_of_ours_leaves_no_call_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(signer())}, tmp_path) as at:

            def broken(*_: object) -> None:
                raise ZeroDivisionError

            monkeypatch.setattr("agent.stir.source.read_chain", broken)
            assert await at.ask() == Unreachable("fault of the agent: ZeroDivisionError")
            assert [type(fault) for fault in at.faults] == [ZeroDivisionError]
            at.faults.clear()

    asyncio.run(main())


def test_counters_begin_with_the_name_and_are_numbers(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({}, tmp_path) as at:
            for name, value in at.source.counters().items():
                assert name.startswith("certificates_")
                assert type(value) is int

    asyncio.run(main())
