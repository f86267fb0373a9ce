"""The authority: who gets in, who is known, who is out. On both databases where the database matters."""

import asyncio
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from controller.authority import Authority, AuthoritySettings, Credentials, EnrolmentRequest
from controller.errors import Busy, Conflict, ControllerError, Denied, Invalid, NotFound, Unauthenticated
from controller.model import Act, PeerKind, Role
from controller.store import Store, StoreSettings
from tests.controller.stores import HOUR, JANE, WHEN, opened, uid
from tests.fakes.waiting import until

T = TypeVar("T")

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


def request_for(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey = KEY) -> bytes:
    """A certificate request that also asks for what it will not get."""
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    made = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("controller.example.net")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, digest)
    )
    return made.public_bytes(Encoding.DER)


@asynccontextmanager
async def running(store_settings: StoreSettings, tmp_path: Path) -> AsyncIterator[tuple[Store, Authority]]:
    """A store and its authority."""
    async with opened(store_settings) as store:
        authority = Authority(AuthoritySettings(tmp_path / "authority", "example.net"), store)
        await authority.open(WHEN)
        yield store, authority


def with_authority(settings: StoreSettings, tmp_path: Path, work: Callable[[Store, Authority], Awaitable[T]]) -> T:
    async def main() -> T:
        async with running(settings, tmp_path) as (store, authority):
            return await work(store, authority)

    return asyncio.run(main())


async def enrolment(authority: Authority, number: int = 1, agent_id: str = "") -> EnrolmentRequest:
    """What an agent with a fresh token sends."""
    _, token = await authority.create_token(JANE, None, "", agent_id, WHEN)
    return EnrolmentRequest(token, request_for(), uid(number), f"key-{number}", "sbc1.example.net", "0.1.0")


def pem(credentials: Credentials) -> bytes:
    return x509.load_der_x509_certificate(credentials.chain[0]).public_bytes(Encoding.PEM)


# --- enrolment


def test_a_token_becomes_an_agent_with_a_certificate_of_a_day(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(store: Store, authority: Authority) -> None:
        enrolled = await authority.enrol(await enrolment(authority), WHEN)
        leaf = x509.load_der_x509_certificate(enrolled.credentials.chain[0])
        root = x509.load_der_x509_certificate(enrolled.credentials.trust_bundle[0])
        leaf.verify_directly_issued_by(root)
        assert leaf.not_valid_after_utc.timestamp() == enrolled.credentials.not_after == WHEN + 24 * HOUR
        assert leaf.not_valid_before_utc.timestamp() <= WHEN - HOUR, "an agent's clock may be an hour behind"
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [x509.UniformResourceIdentifier(f"spiffe://example.net/agent/{enrolled.agent_id}")]
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
        assert leaf.public_key() == KEY.public_key()
        agent = await store.agents.get(enrolled.agent_id, WHEN)
        assert (agent.hostname, agent.version, agent.instance_uid) == ("sbc1.example.net", "0.1.0", uid(1))
        assert agent.certificate_not_after == WHEN + 24 * HOUR
        (token,) = await store.access.tokens()
        assert (token.used_by, token.used_at) == (enrolled.agent_id, WHEN)
        assert [entry.action for entry in await store.audit.entries()] == ["test", "agent.enroll"]

    with_authority(store_settings, tmp_path, work)


def test_the_same_request_again_gets_the_same_certificate_again(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(store: Store, authority: Authority) -> None:
        request = await enrolment(authority)
        first = await authority.enrol(request, WHEN)
        again = await authority.enrol(replace(request, certificate_request=request_for()), WHEN + 2 * HOUR)
        assert again.again
        assert (again.agent_id, again.credentials) == (first.agent_id, first.credentials)
        assert len(await store.agents.all(WHEN)) == 1
        with pytest.raises(Unauthenticated, match="has been used"):
            await authority.enrol(request, WHEN + 25 * HOUR)

    with_authority(store_settings, tmp_path, work)


def test_a_token_is_good_once(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(_store: Store, authority: Authority) -> None:
        request = await enrolment(authority)
        await authority.enrol(request, WHEN)
        for other in (
            replace(request, idempotency_key="another"),
            replace(request, certificate_request=request_for(OTHER_KEY)),
            replace(request, instance_uid=uid(2)),
        ):
            with pytest.raises(Unauthenticated, match="has been used"):
                await authority.enrol(other, WHEN)

    with_authority(store_settings, tmp_path, work)


def test_of_many_who_show_one_token_at_once_one_gets_in(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(store: Store, authority: Authority) -> None:
        request = await enrolment(authority)
        requests = [replace(request, instance_uid=uid(n), idempotency_key=f"{n}") for n in range(20)]
        results = await asyncio.gather(*(authority.enrol(one, WHEN) for one in requests), return_exceptions=True)
        assert sum(not isinstance(result, BaseException) for result in results) == 1
        assert all(isinstance(result, Unauthenticated) for result in results if isinstance(result, BaseException))
        assert len(await store.agents.all(WHEN)) == 1

    with_authority(store_settings, tmp_path, work)


@pytest.mark.parametrize("seconds", [3600.0, 3601.0, 1e9])
def test_a_token_ends_after_an_hour(sqlite_settings: StoreSettings, tmp_path: Path, seconds: float) -> None:
    async def work(_store: Store, authority: Authority) -> None:
        request = await enrolment(authority)
        with pytest.raises(Unauthenticated, match="expired"):
            await authority.enrol(request, WHEN + seconds)

    with_authority(sqlite_settings, tmp_path, work)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 3600.5, float("nan")])
def test_no_token_lives_longer_than_an_hour(sqlite_settings: StoreSettings, tmp_path: Path, seconds: float) -> None:
    async def work(_store: Store, authority: Authority) -> None:
        with pytest.raises(Invalid, match="valid_for"):
            await authority.create_token(JANE, seconds, "", "", WHEN)

    with_authority(sqlite_settings, tmp_path, work)


def test_a_revoked_token_is_refused(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(store: Store, authority: Authority) -> None:
        request = await enrolment(authority)
        (token,) = await store.access.tokens()
        await store.access.revoke_token(token.id, WHEN, JANE)
        await store.access.revoke_token(token.id, WHEN, JANE)
        with pytest.raises(Unauthenticated, match="revoked"):
            await authority.enrol(request, WHEN)
        with pytest.raises(NotFound):
            await store.access.revoke_token("none", WHEN, JANE)

    with_authority(store_settings, tmp_path, work)


def test_a_token_with_one_wrong_digit_is_not_known(sqlite_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(_store: Store, authority: Authority) -> None:
        request = await enrolment(authority)
        wrong = request.token[:-1] + ("0" if request.token[-1] != "0" else "1")
        for token in (
            wrong,
            "",
            "x",
            request.token + "0",
            request.token.upper(),
            request.token.replace("sbce", "sbcl"),
        ):
            with pytest.raises(Unauthenticated, match="not known"):
                await authority.enrol(replace(request, token=token), WHEN)
        assert (await authority.enrol(request, WHEN)).agent_id, "trying has not used it up"

    with_authority(sqlite_settings, tmp_path, work)


def test_the_secret_of_a_token_is_nowhere_in_the_store(sqlite_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(_store: Store, authority: Authority) -> str:
        await authority.create_operator(JANE, "joe", Role.VIEWER, None, WHEN)
        return (await enrolment(authority)).token

    token = with_authority(sqlite_settings, tmp_path, work)
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("state.db*"))
    identifier, secret = token.split("_")[1:]
    assert identifier.encode() in stored
    assert secret.encode() not in stored
    assert bytes.fromhex(secret) not in stored


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"certificate_request": b""}, "certificate_request"),
        ({"certificate_request": b"x"}, "certificate_request"),
        ({"certificate_request": bytes(10_000)}, "certificate_request"),
        ({"certificate_request": request_for(rsa.generate_private_key(65537, 2048))}, "certificate_request"),
        ({"certificate_request": request_for(ed25519.Ed25519PrivateKey.generate())}, "certificate_request"),
        ({"certificate_request": request_for(ec.generate_private_key(ec.SECP521R1()))}, "certificate_request"),
        ({"certificate_request": request_for()[:-1] + bytes([request_for()[-1] ^ 1])}, "certificate_request"),
        ({"instance_uid": "sbc1"}, "instance_uid"),
        ({"instance_uid": ""}, "instance_uid"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "x" * 129}, "idempotency_key"),
    ],
)
def test_a_request_that_cannot_be_right_is_refused_with_its_field(
    sqlite_settings: StoreSettings, tmp_path: Path, changed: dict[str, object], field: str
) -> None:
    async def work(store: Store, authority: Authority) -> None:
        request = await enrolment(authority)
        with pytest.raises(Invalid) as raised:
            await authority.enrol(replace(request, **changed), WHEN)  # type: ignore[arg-type]
        assert raised.value.field == field
        assert not await store.agents.all(WHEN)
        assert (await authority.enrol(request, WHEN)).agent_id, "the token is still good"

    with_authority(sqlite_settings, tmp_path, work)


def test_words_of_strangers_are_kept_harmless(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(store: Store, authority: Authority) -> None:
        request = replace(await enrolment(authority), hostname="a\0b\ud800" + "x" * 9000, version="\0" * 9000)
        enrolled = await authority.enrol(request, WHEN)
        agent = await store.agents.get(enrolled.agent_id, WHEN)
        assert agent.hostname == "a?b?" + "x" * 251
        assert agent.version == "?" * 255
        assert (await store.audit.verify()).intact

    with_authority(store_settings, tmp_path, work)


def test_an_installation_is_one_agent_at_a_time(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(store: Store, authority: Authority) -> None:
        first = await authority.enrol(await enrolment(authority), WHEN)
        copy = replace(await enrolment(authority), idempotency_key="another", instance_uid=uid(1).upper())
        with pytest.raises(Conflict, match=first.agent_id):
            await authority.enrol(copy, WHEN)
        await store.agents.revoke(first.agent_id, "sold", WHEN, JANE)
        second = await authority.enrol(copy, WHEN)
        assert second.agent_id != first.agent_id

    with_authority(store_settings, tmp_path, work)


def test_an_agent_that_lost_its_certificate_comes_back_by_a_token_for_it(
    store_settings: StoreSettings, tmp_path: Path
) -> None:
    async def work(store: Store, authority: Authority) -> None:
        first = await authority.enrol(await enrolment(authority), WHEN)
        request = replace(await enrolment(authority, 2, first.agent_id), certificate_request=request_for(OTHER_KEY))
        again = await authority.enrol(request, WHEN)
        assert again.agent_id == first.agent_id
        assert (await store.agents.get(first.agent_id, WHEN)).instance_uid == uid(2)
        with pytest.raises(Denied, match="revoked"):
            await (fresh := await reread(authority)).peer(pem(first.credentials), WHEN)
        assert (await fresh.peer(pem(again.credentials), WHEN)).name == first.agent_id

    async def reread(authority: Authority) -> Authority:
        await authority._roll.refresh(WHEN)
        return authority

    with_authority(store_settings, tmp_path, work)


def test_a_token_for_an_agent_needs_one_that_may_come_back(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(store: Store, authority: Authority) -> None:
        with pytest.raises(NotFound):
            await authority.create_token(JANE, None, "", "agent-none", WHEN)
        first = await authority.enrol(await enrolment(authority), WHEN)
        early = await enrolment(authority, 2, first.agent_id)
        await store.agents.revoke(first.agent_id, "stolen", WHEN, JANE)
        with pytest.raises(Conflict):
            await authority.create_token(JANE, None, "", first.agent_id, WHEN)
        with pytest.raises(Denied):
            await authority.enrol(early, WHEN)

    with_authority(store_settings, tmp_path, work)


# --- who somebody is


def test_a_certificate_names_its_agent_until_it_ends(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(_store: Store, authority: Authority) -> None:
        enrolled = await authority.enrol(await enrolment(authority), WHEN)
        peer = await authority.peer(pem(enrolled.credentials), WHEN + 23 * HOUR)
        assert (peer.kind, peer.name, peer.role) == (PeerKind.AGENT, enrolled.agent_id, None)
        assert str(peer) == f"agent:{enrolled.agent_id}"
        for when in (WHEN + 24 * HOUR, WHEN - 2 * HOUR):
            with pytest.raises(Unauthenticated, match="ended"):
                await authority.peer(pem(enrolled.credentials), when)

    with_authority(store_settings, tmp_path, work)


def test_certificates_of_others_are_refused(sqlite_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(_store: Store, authority: Authority) -> None:
        async with opened(StoreSettings(tmp_path / "foreign.db")) as store:
            foreign = Authority(AuthoritySettings(tmp_path / "foreign", "example.net"), store)
            await foreign.open(WHEN)
            enrolled = await foreign.enrol(await enrolment(foreign), WHEN)
            other_domain = Authority(AuthoritySettings(tmp_path / "foreign", "example.org"), store)
            await other_domain.open(WHEN)
            elsewhere = await other_domain.enrol(await enrolment(other_domain, 2), WHEN)
        for certificate in (pem(enrolled.credentials), pem(elsewhere.credentials), b"", b"x", b"x" * 99_999):
            with pytest.raises(Unauthenticated):
                await authority.peer(certificate, WHEN)
        root = x509.load_der_x509_certificate(authority.trust_bundle[0]).public_bytes(Encoding.PEM)
        with pytest.raises(Unauthenticated, match="no name"):
            await authority.peer(root, WHEN)

    with_authority(sqlite_settings, tmp_path, work)


def test_a_number_that_another_name_has_proves_nothing(
    sqlite_settings: StoreSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the authority is the operator's, it issues for others as well, also by mistake or by force."""

    async def work(_store: Store, authority: Authority) -> None:
        enrolled = await authority.enrol(await enrolment(authority), WHEN)
        serial = x509.load_der_x509_certificate(enrolled.credentials.chain[0]).serial_number
        monkeypatch.setattr(x509, "random_serial_number", lambda: serial)
        for kind, name in ((PeerKind.AGENT, "agent-other"), (PeerKind.CONTROLLER, enrolled.agent_id)):
            _, der = authority._issuing.issue(kind, name, KEY.public_key(), HOUR, WHEN)
            certificate = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
            with pytest.raises(Unauthenticated, match="none of this fleet"):
                await authority.peer(certificate, WHEN)

    with_authority(sqlite_settings, tmp_path, work)


def test_a_revoked_agent_is_cut_soon(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(store: Store, authority: Authority) -> None:
        watching = asyncio.create_task(authority.watch(lambda: WHEN))
        enrolled = await authority.enrol(await enrolment(authority), WHEN)
        other = await authority.enrol(await enrolment(authority, 2), WHEN)
        peer = await authority.peer(pem(enrolled.credentials), WHEN)
        bystander = await authority.peer(pem(other.credentials), WHEN)
        assert not authority.is_cut(peer)
        await store.agents.revoke(enrolled.agent_id, "stolen", WHEN, JANE)
        await until(lambda: authority.is_cut(peer), 30.0)
        assert not authority.is_cut(bystander)
        with pytest.raises(Denied, match="revoked"):
            await authority.peer(pem(enrolled.credentials), WHEN)
        with pytest.raises(Denied, match="revoked: stolen"):
            await authority.renew(peer, request_for(), uid(1), WHEN)
        watching.cancel()

    with_authority(store_settings, tmp_path, work)


def test_a_revocation_at_one_controller_cuts_streams_at_another_soon(
    postgres_settings: StoreSettings, tmp_path: Path
) -> None:
    async def work(store: Store, authority: Authority) -> None:
        enrolled = await authority.enrol(await enrolment(authority), WHEN)
        async with opened(postgres_settings, "c2") as second:
            there = Authority(AuthoritySettings(tmp_path / "authority", "example.net"), second)
            await there.open(WHEN)
            watching = asyncio.create_task(there.watch(lambda: WHEN))
            peer = await there.peer(pem(enrolled.credentials), WHEN)
            await store.agents.revoke(enrolled.agent_id, "stolen", WHEN, JANE)
            await until(lambda: there.is_cut(peer), 30.0)
            watching.cancel()

    with_authority(postgres_settings, tmp_path, work)


def test_renewal_keeps_the_name_and_wants_the_same_installation(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(store: Store, authority: Authority) -> None:
        enrolled = await authority.enrol(await enrolment(authority), WHEN)
        peer = await authority.peer(pem(enrolled.credentials), WHEN)
        renewed = await authority.renew(peer, request_for(OTHER_KEY), uid(1), WHEN + 12 * HOUR)
        assert renewed.not_after == WHEN + 36 * HOUR
        assert (await authority.peer(pem(renewed), WHEN + 30 * HOUR)).name == enrolled.agent_id
        assert (await store.agents.get(enrolled.agent_id, WHEN)).certificate_not_after == WHEN + 36 * HOUR
        with pytest.raises(Denied, match="another installation"):
            await authority.renew(peer, request_for(), uid(2), WHEN)
        with pytest.raises(Denied):
            await authority.renew(replace(peer, kind=PeerKind.OPERATOR), request_for(), uid(1), WHEN)

    with_authority(store_settings, tmp_path, work)


def test_an_agent_that_asks_for_certificates_without_end_is_told_to_wait(
    sqlite_settings: StoreSettings, tmp_path: Path
) -> None:
    async def work(_store: Store, authority: Authority) -> None:
        enrolled = await authority.enrol(await enrolment(authority), WHEN)
        peer = await authority.peer(pem(enrolled.credentials), WHEN)
        request = request_for()
        for _ in range(63):
            await authority.renew(peer, request, uid(1), WHEN)
        with pytest.raises(Busy):
            await authority.renew(peer, request, uid(1), WHEN)
        await authority.renew(peer, request, uid(1), WHEN + 24 * HOUR)

    with_authority(sqlite_settings, tmp_path, work)


# --- operators


def test_an_operator_logs_in_until_the_token_ends(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(store: Store, authority: Authority) -> None:
        operator, token = await authority.create_operator(JANE, "joe", Role.OPERATOR, 60.0, WHEN)
        assert await store.access.operators() == [operator]
        peer = await authority.login(token, WHEN)
        assert (peer.kind, peer.name, peer.role) == (PeerKind.OPERATOR, "joe", Role.OPERATOR)
        assert peer.not_after == WHEN + 60.0
        assert not authority.is_cut(peer)
        with pytest.raises(Unauthenticated, match="expired"):
            await authority.login(token, WHEN + 60.0)
        for wrong in (token[:-2] + "zz", token.replace("sbcl", "sbce"), "", "x" * 10_000):
            with pytest.raises(Unauthenticated, match="not known"):
                await authority.login(wrong, WHEN)

    with_authority(store_settings, tmp_path, work)


def test_a_revoked_operator_is_cut_with_token_and_certificate(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(store: Store, authority: Authority) -> None:
        await authority.create_operator(JANE, "root", Role.ADMIN, None, WHEN)
        _, token = await authority.create_operator(JANE, "joe", Role.VIEWER, None, WHEN)
        credentials = await authority.operator_certificate(JANE, "joe", request_for(), WHEN)
        watching = asyncio.create_task(authority.watch(lambda: WHEN))
        peers = [await authority.login(token, WHEN), await authority.peer(pem(credentials), WHEN)]
        assert [peer.role for peer in peers] == [Role.VIEWER, Role.VIEWER]
        await store.access.revoke_operator("joe", WHEN, JANE)
        await until(lambda: all(authority.is_cut(peer) for peer in peers), 30.0)
        with pytest.raises(Unauthenticated):
            await authority.login(token, WHEN)
        with pytest.raises(Denied):
            await authority.peer(pem(credentials), WHEN)
        # Who comes back under the name gets nothing of what was before.
        await authority.create_operator(JANE, "joe", Role.VIEWER, None, WHEN)
        await asyncio.sleep(0)
        assert all(authority.is_cut(peer) for peer in peers)
        watching.cancel()

    with_authority(store_settings, tmp_path, work)


def test_the_last_admin_stays(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(store: Store, authority: Authority) -> None:
        await authority.create_operator(JANE, "a", Role.ADMIN, 60.0, WHEN)
        await authority.create_operator(JANE, "b", Role.ADMIN, None, WHEN)
        with pytest.raises(Conflict, match="last admin"):
            await store.access.revoke_operator("b", WHEN + 60.0, JANE)
        await store.access.revoke_operator("b", WHEN, JANE)
        with pytest.raises(Conflict, match="last admin"):
            await store.access.revoke_operator("a", WHEN, JANE)

    with_authority(store_settings, tmp_path, work)


@pytest.mark.parametrize("name", ["", "Joe", "joe smith", "joe/agent", "x" * 65, "-joe", "joe\n", "jo\u00e9"])
def test_an_operator_has_a_plain_name(sqlite_settings: StoreSettings, tmp_path: Path, name: str) -> None:
    async def work(_store: Store, authority: Authority) -> None:
        with pytest.raises(Invalid, match="name"):
            await authority.create_operator(JANE, name, Role.VIEWER, None, WHEN)

    with_authority(sqlite_settings, tmp_path, work)


def test_two_operators_have_two_names(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(_store: Store, authority: Authority) -> None:
        await authority.create_operator(JANE, "joe", Role.VIEWER, 60.0, WHEN)
        with pytest.raises(Conflict):
            await authority.create_operator(JANE, "joe", Role.ADMIN, None, WHEN)
        await authority.create_operator(JANE, "joe", Role.ADMIN, None, WHEN + 60.0)

    with_authority(store_settings, tmp_path, work)


# --- its own


def test_the_first_start_makes_keys_that_nobody_else_reads(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(_store: Store, authority: Authority) -> tuple[bytes, ...]:
        data = b"a manifest"
        signer = authority.artifact_signer
        assert signer.verify(signer.key_id, data, signer.sign(data))
        assert not signer.verify(signer.key_id, b"another", signer.sign(data))
        assert not signer.verify("unknown", data, signer.sign(data))
        return authority.trust_bundle

    first = with_authority(store_settings, tmp_path, work)
    folder = tmp_path / "authority"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "ca.key": 0o600,
        "artifact.key": 0o600,
        "ca.crt": 0o644,
    }
    assert with_authority(store_settings, tmp_path, work) == first


def test_the_server_has_a_certificate_for_its_names(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(_store: Store, authority: Authority) -> None:
        made = await authority.server_identity(["controller.example.net", "127.0.0.1", "::1", "127.0.0.1"], WHEN)
        leaf, root = x509.load_pem_x509_certificates(made.chain_pem)
        leaf.verify_directly_issued_by(root)
        assert root.public_bytes(Encoding.DER) == authority.trust_bundle[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["controller.example.net"]
        assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
        peer = await authority.peer(leaf.public_bytes(Encoding.PEM), WHEN)
        assert (peer.kind, peer.name) == (PeerKind.CONTROLLER, "c1")
        assert not authority.is_cut(peer)

    with_authority(store_settings, tmp_path, work)


def test_everything_that_somebody_does_is_in_the_log(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(store: Store, authority: Authority) -> None:
        await authority.create_token(Act("operator:jane", "token.create"), None, "", "", WHEN)
        await authority.create_operator(Act("operator:jane", "operator.create"), "joe", Role.VIEWER, None, WHEN)
        with pytest.raises(ControllerError):
            await authority.create_operator(Act("operator:jane", "operator.create"), "joe", Role.VIEWER, None, WHEN)
        entries = await store.audit.entries()
        assert [(entry.actor, entry.action) for entry in entries] == [
            ("operator:jane", "token.create"),
            ("operator:jane", "operator.create"),
        ]
        assert '"role":"viewer"' in entries[1].detail
        assert "sbc" not in "".join(entry.detail for entry in entries), "no token is in the log"

    with_authority(store_settings, tmp_path, work)


def test_health_says_how_long_the_authority_is_good(sqlite_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(_store: Store, authority: Authority) -> None:
        assert authority.health(WHEN) == (True, "the authority is good for 3650 days")
        assert authority.health(WHEN + 3600 * 24 * HOUR) == (False, "the authority is good for 50 days")
        with pytest.raises(Conflict, match="authority has ended"):
            await authority.server_identity([], WHEN + 3651 * 24 * HOUR)

    with_authority(sqlite_settings, tmp_path, work)
