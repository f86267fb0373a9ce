"""Trust lists and revocation lists that come from a server: when, from where, and what is not believed of them."""

import json
from pathlib import Path

import pytest

from agent.stir.artifact import RETRY_SECONDS
from agent.stir.keeper import NOBODY
from agent.stir.lab import sign_jws
from tests.fakes.certificate_server import page, redirect, silence
from tests.fakes.waiting import until
from tests.stir.desk import CRL, DAY, LIST, administrator, revocations, run, trust_list
from tests.stir.fetching import Clocks, laboratory

pytestmark = pytest.mark.usefixtures("quick")


def test_lists_are_fetched_and_in_force_soon_after_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        answer = json.dumps({"status": "success", "caList": trust_list(3).decode()}).encode()
        async with administrator(tmp_path, {LIST: page(answer), CRL: page(revocations(revoked=4))}) as (at, _):
            await until(at.healthy)
            assert at.words == "1 authorities, sequence 3, 1 revocation lists of 4 certificates"

    run(main)


def test_start_does_not_wait_for_a_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with administrator(tmp_path, {LIST: silence, CRL: silence}) as (at, server):
            assert at.words.startswith(NOBODY)
            await until(lambda: server.asked.total() == 2)

    run(main)


def test_lists_are_fetched_again_at_their_intervals(tmp_path: Path) -> None:
    async def main() -> None:
        async with administrator(tmp_path, {LIST: page(trust_list(1)), CRL: page(revocations())}) as (at, server):
            await until(at.healthy)
            at.clocks.advance(3599)
            await until(lambda: server.asked == {LIST: 1, CRL: 1})
            at.clocks.advance(1)
            await until(lambda: server.asked == {LIST: 1, CRL: 2})
            server.pages[LIST] = page(trust_list(2))
            at.clocks.advance(3 * 3600)
            await until(lambda: at.count("sequence") == 2)
            assert server.asked[LIST] == 2

    run(main)


def test_failing_server_is_asked_again_and_alarmed_when_the_list_is_old(tmp_path: Path) -> None:
    async def main() -> None:
        async with administrator(tmp_path, {LIST: page(trust_list())}, crls=()) as (at, server):
            await until(at.healthy)
            server.pages[LIST] = page(b"", 503)
            at.clocks.advance(4 * 3600)
            await until(lambda: at.count("failures") == 1)
            assert at.healthy()  # for now; the trouble is told
            assert at.words.endswith("; trust list: 503 Service Unavailable")
            at.clocks.advance(RETRY_SECONDS)
            await until(lambda: at.count("failures") == 2)
            at.clocks.advance(RETRY_SECONDS)
            await at.keeper._look_at([])
            assert at.count("failures") == 2  # the pause is doubled
            at.clocks.advance(3 * DAY)
            await until(lambda: at.count("failures") == 3)
            assert at.keeper.health() == (
                False,
                f"trust list {server.url(LIST)}: not confirmed for 76 h (503 Service Unavailable)",
            )
            assert len(at.stores[-1].anchors) == 1
            assert at.count("list_age_seconds") > 3 * DAY
            server.pages[LIST] = page(trust_list())
            at.clocks.advance(4 * 3600)
            await until(at.healthy)
            assert at.count("list_age_seconds") == 0

    run(main)


def test_lower_sequence_from_a_server_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with administrator(tmp_path, {LIST: page(trust_list(5))}, crls=()) as (at, server):
            await until(at.healthy)
            server.pages[LIST] = page(trust_list(4, anchors=2))
            at.clocks.advance(4 * 3600)
            await until(lambda: at.count("failures") == 1)
            assert at.words.endswith("has sequence 4, and 5 was seen before")
            await at.restart()
            await until(lambda: at.count("failures") == 1)
            assert (at.count("sequence"), at.count("authorities")) == (5, 1)

    run(main)


def test_older_revocation_list_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        pages = {LIST: page(trust_list()), CRL: page(revocations(2, age=60, revoked=5))}
        async with administrator(tmp_path, pages) as (at, server):
            await until(at.healthy)
            server.pages[CRL] = page(revocations(1, age=3600, revoked=1))
            at.clocks.advance(3600)
            await until(lambda: at.count("failures") == 1)
            assert at.words.endswith("revocation list: what is there is older than the one in use")
            assert at.count("revoked_certificates") == 5
            server.pages[CRL] = page(revocations(3, age=30, revoked=6))
            at.clocks.advance(3600)
            await until(lambda: at.count("revoked_certificates") == 6)

    run(main)


def test_expired_list_stays_in_use_and_is_alarmed(tmp_path: Path) -> None:
    async def main() -> None:
        pages = {
            LIST: page(trust_list(expires=Clocks().wall + 3600)),
            CRL: page(revocations(left=7200)),
        }
        async with administrator(tmp_path, pages) as (at, _):
            await until(at.healthy)
            at.clocks.advance(3600 * 2 + 1)
            await until(lambda: not at.healthy())
            assert "trust list" in at.words
            assert "revocation list" in at.words
            assert at.words.count(": expired on ") == 2
            assert len(at.keeper.store.anchors) == 1

    run(main)


def test_certificates_without_a_signature_are_not_taken_from_a_url(tmp_path: Path) -> None:
    async def main() -> None:
        async with administrator(tmp_path, {LIST: page(laboratory().root.pem)}, crls=()) as (at, _):
            await until(lambda: at.count("failures") == 1)
            assert "is not signed" in at.words
            assert at.words.startswith(NOBODY)

    run(main)


def test_signer_of_the_list_is_fetched_from_its_x5u_and_kept(tmp_path: Path) -> None:
    async def main() -> None:
        lab = laboratory()

        async with administrator(tmp_path, {"/pa.pem": page(lab.pa_signer.pem)}, crls=()) as (at, server):
            await until(lambda: at.count("failures") == 1)  # there is no list yet
            header = {"alg": "ES256", "typ": "JWT", "x5u": server.url("/pa.pem")}
            payload = {"sequence": 8, "exp": int(at.clocks.wall + DAY), "trustList": [lab.root.pem.decode()]}
            server.pages[LIST] = page(sign_jws(header, payload, lab.pa_signer.key))
            at.clocks.advance(4 * 3600)
            await until(at.healthy)
            assert at.count("sequence") == 8
            at.clocks.advance(4 * 3600)
            await until(lambda: server.asked[LIST] == 3)
            assert server.asked["/pa.pem"] == 1
            server.pages.clear()
            await at.restart()
            assert at.stores[-1].sequence == 8

    run(main)


def test_x5u_of_the_list_is_fetched_by_the_rules_only(tmp_path: Path) -> None:
    async def main() -> None:
        lab = laboratory()
        header = {"alg": "ES256", "typ": "JWT", "x5u": "http://127.0.0.1/pa.pem"}
        payload = {"sequence": 8, "trustList": [lab.root.pem.decode()]}
        document = sign_jws(header, payload, lab.pa_signer.key)
        async with administrator(tmp_path, {LIST: page(document)}, crls=()) as (at, _):
            await until(lambda: at.count("failures") == 1)
            assert "is not signed by the policy administrator" in at.words

    run(main)


def test_redirect_of_a_list_is_followed(tmp_path: Path) -> None:
    async def main() -> None:
        pages = {LIST: redirect("/new"), "/new": page(trust_list())}
        async with administrator(tmp_path, pages, crls=()) as (at, _):
            await until(at.healthy)

    run(main)
