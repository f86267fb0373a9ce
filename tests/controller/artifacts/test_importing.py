"""Lists as operators import them: checked whole, numbered, signed, brought to the agents that need them."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode, aio

from agent.deltas import apply_delta
from controller.artifacts.importing import AT_ONCE
from controller.model import Act, Role
from sbcedge.control.v1 import control_pb2
from sbcedge.control.v1 import control_pb2_grpc as control_rpc
from sbcedge.fleet.v1 import fleet_pb2 as pb
from tests.controller.agents import PATIENCE, Controller, a_controller, a_policy
from tests.controller.artifacts.lists import Lists, dno, many
from tests.fakes.certificates import Authority
from tests.fakes.waiting import until

NEEDS = '\n[do_not_originate]\nlists = ["industry"]\n'


def with_controller(folder: Path, work: Callable[[Controller], Awaitable[None]], more: str = "") -> None:
    async def main() -> None:
        async with a_controller(folder, more=more) as controller:
            await work(controller)

    asyncio.run(main())


async def refused(call: Awaitable[object]) -> tuple[StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


def test_an_imported_list_is_the_next_generation_and_its_manifest_is_signed(tmp_path: Path) -> None:
    async def work(controller: Controller) -> None:
        lists, first, second = Lists(controller), dno(["2015550123"]), dno(["2015550124"])
        taken = await lists.imports("industry", first)
        assert (taken.list.generation, taken.list.sha256) == (1, hashlib.sha256(first).digest())
        assert (await lists.imports("industry", second)).list.generation == 2
        shown = (await lists.all()).lists
        assert [(item.name, item.generation, item.size) for item in shown] == [("industry", 2, len(second))]
        stored = await controller.parts.store.artifacts.latest("dno", "industry")
        signer = controller.parts.authority.artifact_signer
        key = Ed25519PublicKey.from_public_bytes(signer.public_keys[stored.key_id])
        key.verify(stored.signature, stored.manifest)
        assert control_pb2.ArtifactManifest.FromString(stored.manifest).generation == 2

    with_controller(tmp_path, work)


def test_the_same_bytes_again_are_no_new_generation(tmp_path: Path) -> None:
    async def work(controller: Controller) -> None:
        lists = Lists(controller)
        await lists.imports("industry", dno(["2015550123"]))
        again = await lists.imports("industry", dno(["2015550123"]))
        assert again.unchanged
        assert again.list.generation == 1

    with_controller(tmp_path, work)


def test_an_old_list_comes_back_by_being_imported_again(tmp_path: Path) -> None:
    async def work(controller: Controller) -> None:
        lists = Lists(controller)
        for numbers in (["2015550123"], ["2015550124"]):
            await lists.imports("industry", dno(numbers))
        assert (await lists.imports("industry", dno(["2015550123"]))).list.generation == 3

    with_controller(tmp_path, work)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"kind": "blacklist"}, "kind"),
        ({"name": "no names with spaces"}, "name"),
        ({"name": "../industry"}, "name"),
        ({"data": b""}, "data"),
        ({"data": b"number,category\n"}, "data"),
        ({"data": dno(["2015550123"])[:-1]}, "data"),
        ({"data": dno(["2015550123"], expires_at=1_700_000_001.0)}, "data"),
        ({"kind": "crl", "data": b"0"}, "kind"),
    ],
)
def test_what_is_no_list_is_refused_with_the_field_and_leaves_nothing(
    tmp_path: Path, changes: dict[str, object], field: str
) -> None:
    async def work(controller: Controller) -> None:
        lists = Lists(controller)
        given: dict[str, Any] = {"kind": "dno", "name": "industry", "data": dno(["2015550123"])} | changes
        code, words = await refused(lists.imports(**given))
        assert code is StatusCode.INVALID_ARGUMENT, words
        assert words.startswith(f"{field}: ")
        assert not (await lists.all()).lists
        assert not await controller.parts.store.artifacts.locations()

    with_controller(tmp_path, work)


def test_one_flipped_bit_is_found(tmp_path: Path) -> None:
    async def work(controller: Controller) -> None:
        data = bytearray(dno(many(1000)))
        data[len(data) // 2] ^= 1
        code, words = await refused(Lists(controller).imports("industry", bytes(data)))
        assert code is StatusCode.INVALID_ARGUMENT
        assert "checksum" in words

    with_controller(tmp_path, work)


def test_a_list_that_ends_in_the_past_is_refused(tmp_path: Path) -> None:
    async def work(controller: Controller) -> None:
        ended = Timestamp(seconds=int(time.time()) - 1)
        code, words = await refused(Lists(controller).imports("industry", dno(["2015550123"]), not_after=ended))
        assert (code, words) == (StatusCode.INVALID_ARGUMENT, "not_after: is in the past")

    with_controller(tmp_path, work)


def test_a_viewer_imports_nothing_and_may_look(tmp_path: Path) -> None:
    async def work(controller: Controller) -> None:
        await Lists(controller).imports("industry", dno(["2015550123"]))
        _, token = await controller.parts.authority.create_operator(
            Act("operator:admin", "test"), "watcher", Role.VIEWER, None, time.time()
        )
        viewer = Lists(controller, token)
        code, words = await refused(viewer.imports("industry", dno(["2015550124"])))
        assert code is StatusCode.PERMISSION_DENIED, words
        assert (await viewer.lookup("2015550123")).hits

    with_controller(tmp_path, work)


def test_lists_of_the_policy_in_force_go_to_the_agents_by_a_new_generation(tmp_path: Path) -> None:
    async def work(controller: Controller) -> None:
        lists, operator = Lists(controller), controller.operator()
        await lists.imports("industry", dno(["2015550123"]))
        agent = await controller.enrol()
        async with agent.session() as session:
            session.lives()
            applied = await operator.apply(a_policy() + NEEDS, steps=(1.0,))
            assert not applied.problems
            await operator.rollout_ends()
            taken = await lists.imports("industry", dno(["2015550124"]))
            assert taken.policy_generation == applied.policy.generation + 1

            def offered() -> bool:
                offers = [m.offer for m in session.heard if m.WhichOneof("message") == "offer"]
                return any(m.generation == 2 for offer in offers for m in offer.artifacts)

            await until(offered, PATIENCE)

    with_controller(tmp_path, work)


def test_a_list_that_no_policy_needs_makes_no_generation(tmp_path: Path) -> None:
    async def work(controller: Controller) -> None:
        operator = controller.operator()
        await operator.apply(a_policy(), steps=(1.0,))
        taken = await Lists(controller).imports("industry", dno(["2015550124"]))
        assert taken.policy_generation == 0

    with_controller(tmp_path, work)


def test_an_agent_gets_a_delta_from_the_version_that_it_has_and_it_makes_the_new_one(tmp_path: Path) -> None:
    async def work(controller: Controller) -> None:
        lists, operator = Lists(controller), controller.operator()
        old, new = dno(many(20_000)), dno([*many(20_000), "2015550123"], 2)
        await lists.imports("industry", old)
        agent = await controller.enrol()
        async with agent.session() as session:
            session.lives()
            await operator.apply(a_policy() + NEEDS, steps=(1.0,))
            await operator.rollout_ends()
            await lists.imports("industry", new)
            target = hashlib.sha256(new).digest()

            def offered() -> bool:
                offers = [m.offer for m in session.heard if m.WhichOneof("message") == "offer"]
                return any(m.sha256 == target for offer in offers for m in offer.artifacts)

            await until(offered, PATIENCE)
            stub = control_rpc.ArtifactServiceStub(agent.channel())
            request = control_pb2.FetchArtifactRequest(sha256=target, base_sha256=hashlib.sha256(old).digest())
            responses = [response async for response in stub.FetchArtifact(request, timeout=PATIENCE)]
            assert responses[0].delta
            delta = b"".join(response.data for response in responses)
            assert len(delta) < len(new) / 10
            assert b"".join(apply_delta(old, delta, len(new))) == new

    with_controller(tmp_path, work)


def test_a_number_is_looked_up_in_the_latest_generation_of_every_list(tmp_path: Path) -> None:
    async def work(controller: Controller) -> None:
        lists = Lists(controller)
        await lists.imports("industry", dno(["2015550123"]))
        await lists.imports("own", dno(["2015550123", "2015550124"]))
        found = await lists.lookup("sip:+12015550123@gw.example;user=phone")
        assert found.digits == "12015550123"
        assert dict(found.hits) == dict.fromkeys(
            ("industry", "own"),
            "subscriber request, by example (registry), verified 2023-11-14T22:13:20Z, for good",
        )
        await lists.imports("industry", dno(["2015550125"]))
        assert set((await lists.lookup("2015550123")).hits) == {"own"}
        assert not (await lists.lookup("2015550199")).hits
        assert (await refused(lists.lookup("")))[1].startswith("number: ")
        assert (await refused(lists.lookup("anonymous")))[1].startswith("number: ")

    with_controller(tmp_path, work)


def test_more_imports_than_there_is_room_for_are_told_to_come_back(tmp_path: Path) -> None:
    async def work(controller: Controller) -> None:
        lists, gate = Lists(controller), asyncio.Event()

        async def slow() -> object:
            async def requests() -> AsyncIterator[pb.ImportListRequest]:
                yield pb.ImportListRequest(kind="trust-list", name="lab", data=Authority("lab").certificate)
                await gate.wait()

            return await lists._stub.ImportList(requests(), metadata=lists._metadata, timeout=PATIENCE)

        waiting = [asyncio.create_task(slow()) for _ in range(AT_ONCE)]
        await until(lambda: controller.parts.importer._places == 0, PATIENCE)
        code, _ = await refused(lists.imports("other", dno(["2015550123"])))
        assert code is StatusCode.RESOURCE_EXHAUSTED
        gate.set()
        await asyncio.gather(*waiting)
        assert not (await lists.imports("other", dno(["2015550123"]))).unchanged

    with_controller(tmp_path, work)


def test_certificates_are_a_trust_list_on_the_operators_own_word(tmp_path: Path) -> None:
    async def work(controller: Controller) -> None:
        taken = await Lists(controller).imports("lab", Authority("lab").certificate, kind="trust-list")
        assert dict(taken.list.counts) == {"authorities": 1}

    with_controller(tmp_path, work)
