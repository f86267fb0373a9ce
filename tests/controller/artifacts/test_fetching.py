"""Lists that the controller fetches by itself, from a real https server on loopback."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.model import ConfigError
from controller.artifacts.fetching import LATE, ListKeeper
from controller.artifacts.settings import ArtifactSettings, Source
from controller.model import FetchState
from tests.controller.agents import PATIENCE, Controller, a_controller
from tests.controller.artifacts.lists import Lists, dno
from tests.fakes.certificate_server import CertificateServer, Handler, endless, gzip_bomb, page, redirect, serving
from tests.fakes.certificates import Authority
from tests.fakes.waiting import until

SOURCE = """
[[artifacts.sources]]
kind = "dno"
name = "industry"
url = "https://localhost:{port}{path}"
every_seconds = {every}
within_seconds = 1
https_ca = "{ca}"
{more}
"""


class Time:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


Work = Callable[[Controller, ListKeeper, CertificateServer], Awaitable[None]]


def fetching(folder: Path, pages: dict[str, Handler], work: Work, path: str = "/list", more: str = "") -> None:
    """A controller with one source at a server with these pages."""

    async def main() -> None:
        authority = Authority()
        ca = folder / "ca.pem"
        ca.write_bytes(authority.certificate)
        async with serving(pages, authority) as server:
            text = SOURCE.format(port=server.port, path=path, every=3600, ca=ca, more=more)
            async with a_controller(folder / "state", more=text) as controller:
                keeper = next(part for part in controller.parts.running if isinstance(part, ListKeeper))
                await work(controller, keeper, server)

    asyncio.run(main())


async def state_of(controller: Controller) -> FetchState:
    """When there is one."""
    store = controller.parts.store.artifacts
    async with asyncio.timeout(PATIENCE):
        while not (states := await store.fetch_states()):
            await asyncio.sleep(0.01)
    return states["dno/industry"]


def test_a_list_is_fetched_imported_and_not_fetched_again_before_its_time(tmp_path: Path) -> None:
    async def work(controller: Controller, keeper: ListKeeper, server: CertificateServer) -> None:
        state = await state_of(controller)
        assert (state.problem, state.validator) == ("", 'etag "one"')
        shown = await Lists(controller).all()
        assert [(item.name, item.generation, item.author) for item in shown.lists] == [("industry", 1, "controller:c1")]
        assert shown.fetches[0].fetched_at.seconds > 0
        await keeper.look()
        assert server.asked["/list"] == 1
        assert keeper.health()[0]

    fetching(tmp_path, {"/list": page(dno(["2015550123"]), headers={"ETag": '"one"'})}, work)


def test_what_has_not_changed_is_asked_for_by_its_validator_and_makes_no_generation(tmp_path: Path) -> None:
    async def work(controller: Controller, keeper: ListKeeper, server: CertificateServer) -> None:
        state = await state_of(controller)
        server.pages["/list"] = page(b"", 304)
        await due(controller, state)
        await keeper.look()
        assert b'if-none-match: "one"' in server.heads[-1].lower()
        assert (await state_of(controller)).problem == ""
        assert (await Lists(controller).all()).lists[0].generation == 1
        assert keeper.counters()["lists_unchanged_fetches"] == 1

    fetching(tmp_path, {"/list": page(dno(["2015550123"]), headers={"ETag": '"one"'})}, work)


async def due(controller: Controller, state: FetchState) -> None:
    """As if the last try were long ago."""
    changed = FetchState(state.source, 0.0, state.fetched_at, state.validator, state.problem)
    await controller.parts.store.artifacts.fetched(changed)


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (page(b"gone", 404), "answers with 404"),
        (page(b"", 304), "answers with 304"),
        (page(b"not a list"), "not a usable do-not-originate list"),
        (page(dno(["2015550123"])[:-1], headers={"Content-Length": "9999999"}), "peer closed connection"),
        (page(b"x", headers={"Content-Length": str(1 << 40)}), "is larger than 256 MiB"),
        (endless(b"HTTP/1.1 200 OK\r\n\r\n", bytes(65_536)), ""),
        (gzip_bomb(1 << 20), "compressed bytes"),
        (redirect("http://localhost/list"), "redirects to what must be an https URL"),
        (redirect("/list"), "more than 3 redirects"),
    ],
    ids=["404", "304-unasked", "no-list", "cut", "too-large", "endless", "gzip", "to-http", "circle"],
)
def test_what_goes_wrong_is_said_and_what_is_here_stays(tmp_path: Path, handler: Handler, words: str) -> None:
    async def work(controller: Controller, keeper: ListKeeper, _server: CertificateServer) -> None:
        state = await state_of(controller)
        assert state.problem
        assert words in state.problem
        assert state.fetched_at is None
        shown = await Lists(controller).all()
        assert not shown.lists
        assert shown.fetches[0].problem == state.problem
        assert keeper.counters()["lists_failed_fetches"] == 1

    fetching(tmp_path, {"/list": handler}, work)


def test_a_server_that_is_not_who_it_says_is_not_asked_for_anything(tmp_path: Path) -> None:
    async def main() -> None:
        ca = tmp_path / "ca.pem"
        ca.write_bytes(Authority("another").certificate)
        async with serving({"/list": page(dno(["2015550123"]))}, Authority()) as server:
            text = SOURCE.format(port=server.port, path="/list", every=3600, ca=ca, more="")
            async with a_controller(tmp_path / "state", more=text) as controller:
                assert "certificate" in (await state_of(controller)).problem.lower()
                assert not server.asked

    asyncio.run(main())


def test_the_secret_header_goes_to_its_host_and_is_read_anew_each_time(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("Bearer one\n")

    async def work(controller: Controller, keeper: ListKeeper, server: CertificateServer) -> None:
        state = await state_of(controller)
        assert [b"authorization: bearer one" in head.lower() for head in server.heads] == [True, False]
        secret.write_text("Bearer two\n")
        await due(controller, state)
        await keeper.look()
        assert b"authorization: bearer two" in server.heads[2].lower()

    async def elsewhere(writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        await redirect(f"https://127.0.0.1:{port}/other")(writer)

    pages = {"/list": elsewhere, "/other": page(dno(["2015550123"]))}
    fetching(tmp_path, pages, work, more=f'authorization = "{secret}"')


def test_a_source_that_stays_away_and_a_list_that_has_ended_are_not_well(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Time()
        async with a_controller(tmp_path / "state", clock=clock) as controller:
            parts = controller.parts
            source = Source("dno", "industry", "https://127.0.0.1:9/list")
            settings = ArtifactSettings(tmp_path, sources=(source,))
            keeper = ListKeeper(settings, parts.store, parts.blobs, parts.importer, parts.log, clock)
            await Lists(controller).imports("own", dno(["2015550123"], expires_at=clock.now + 60))
            await keeper.start()
            await until(lambda: keeper.counters()["lists_failed_fetches"] == 1, PATIENCE)
            await keeper.stop(0.0)
            assert keeper.health()[0]
            clock.now += 61
            assert keeper.health() == (False, "past their end, and still in use: dno own")
            keeper._lists = []
            clock.now += LATE * source.every_seconds
            assert keeper.health()[1].startswith("dno/industry cannot be fetched: ")

    asyncio.run(main())


def test_old_generations_go_unless_a_policy_needs_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "state", more="[artifacts]\nkeep = 2\n") as controller:
            lists, parts = Lists(controller), controller.parts
            for n in range(5):
                await lists.imports("own", dno([f"201555010{n}"]))
            keeper = next(part for part in parts.running if isinstance(part, ListKeeper))
            keeper._tidied = float("-inf")
            await keeper.look()
            left = await parts.store.artifacts.versions("dno", "own")
            assert [artifact.key.generation for artifact in left] == [5, 4]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"url": "http://lists.example.net/dno"}, "url"),
        ({"url": "https://user:secret@lists.example.net/dno"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "https://[::1/dno"}, "url"),
        ({"name": "No Name"}, "name"),
    ],
)
def test_a_source_that_cannot_be_right_is_refused_with_the_field(changes: dict[str, str], field: str) -> None:
    values = {"kind": "dno", "name": "industry", "url": "https://lists.example.net/dno"} | changes
    with pytest.raises(ConfigError) as caught:
        Source(**values)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_a_signed_list_is_not_fetched_without_knowing_who_may_sign(tmp_path: Path) -> None:
    source = Source("crl", "us", "https://lists.example.net/crl")
    with pytest.raises(ConfigError) as caught:
        ArtifactSettings(tmp_path, sources=(source,))
    assert caught.value.field == "signers"
