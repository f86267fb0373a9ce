"""What a controller gives to the verification: taken with the right signatures, kept, aged, and never half."""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from agent.model import ConfigErrors
from agent.stir.given import GivenDocument
from agent.stir.lists import Kind
from tests.stir.desk import DAY, desk, revocations, trust_list
from tests.stir.fetching import Clocks, laboratory


def given(folder: Path, content: bytes, kind: Kind = Kind.LIST, generation: int = 1, number: int = 0) -> GivenDocument:
    """As it lies on disk when it has come just now."""
    sha256 = hashlib.sha256(content).digest()
    path = folder / sha256.hex()
    path.write_bytes(content)
    os.utime(path, (Clocks().wall, Clocks().wall))
    return GivenDocument(number, kind, "us", generation, sha256, path)


def test_it_is_trusted_at_once_and_goes_with_what_is_given_next(tmp_path: Path) -> None:
    async def main() -> None:
        async with desk(tmp_path) as at:
            documents = [given(tmp_path, trust_list()), given(tmp_path, revocations(revoked=2), Kind.CRL)]
            await at.keeper.give(documents)
            assert at.healthy()
            assert at.words == (
                "1 authorities, sequence 1, 1 revocation lists of 2 certificates; "
                "of the controller: trust list us 1, revocation list us 1"
            )
            published = len(at.stores)
            await at.keeper.give(documents)
            assert len(at.stores) == published  # the same is no news
            await at.keeper.give([])
            assert at.stores[-1].anchors == ()
            assert not at.healthy()

    asyncio.run(main())


def test_it_grows_old_when_the_controller_is_away_and_a_restart_does_not_make_it_young(tmp_path: Path) -> None:
    async def main() -> None:
        document = given(tmp_path, trust_list())
        async with desk(tmp_path, trust_max_age_seconds=3 * DAY) as at:
            await at.keeper.give([document])
            at.clocks.wall += 2 * DAY
            assert at.healthy()
            at.clocks.wall += 2 * DAY
            assert "generation 1: not confirmed for 96 h" in at.words
            assert at.count("list_age_seconds") == 4 * DAY
            await at.restart()
            await at.keeper.give([document])
            assert "generation 1: not confirmed for 96 h" in at.words
            at.keeper.vouch()
            assert at.healthy()
            assert at.count("list_age_seconds") == 0
            at.clocks.wall += 40 * DAY
            assert "past its end, and still in use" in at.words
            assert len(at.keeper.store.anchors) == 1

    asyncio.run(main())


def test_one_that_is_wrong_is_named_with_its_place_and_nothing_is_changed(tmp_path: Path) -> None:
    async def main() -> None:
        async with desk(tmp_path) as at:
            await at.keeper.give([given(tmp_path, trust_list())])
            wrong = [
                given(tmp_path, laboratory().root.pem, number=0),
                given(tmp_path, trust_list(2), number=1),
                given(tmp_path, b"0", Kind.CRL, number=2),
            ]
            with pytest.raises(ConfigErrors) as caught:
                await at.keeper.check_given(wrong)
            assert [error.field for error in caught.value.errors] == ["artifacts[0]", "artifacts[2]"]
            assert at.keeper.store.sequence == 1

    asyncio.run(main())


def test_a_file_that_decayed_is_not_used_and_one_in_use_stays_in_use(tmp_path: Path) -> None:
    async def main() -> None:
        good, other = given(tmp_path, trust_list()), given(tmp_path, trust_list(2))
        async with desk(tmp_path) as at:
            await at.keeper.give([good])
            good.path.write_bytes(b"decayed")
            await at.keeper.give([good])  # the same bytes, as far as anybody knows
            assert at.healthy()
            other.path.write_bytes(b"decayed")
            await at.keeper.give([other])
            assert "not used: is damaged on disk" in at.words
            other.path.unlink()
            await at.keeper.give([other])
            assert "not used: No such file" in at.words

    asyncio.run(main())


def test_what_a_host_says_of_signers_holds_for_the_controllers_lists_whatever_its_clock_says(tmp_path: Path) -> None:
    async def main() -> None:
        documents = [given(tmp_path, trust_list()), given(tmp_path, revocations(age=-7200.0), Kind.CRL, number=1)]
        async with desk(tmp_path) as at:  # its clock is two hours behind that of whoever signed
            await at.keeper.check_given(documents)
            await at.keeper.give(documents)
            assert at.healthy()
        async with desk(tmp_path, pa_roots=None, crl_signers=None) as at:  # the controller's word is enough
            await at.keeper.give([given(tmp_path, laboratory().root.pem), documents[1]])
            assert at.healthy()

    asyncio.run(main())
