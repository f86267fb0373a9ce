"""Which calls get an Identity of ours, what it attests, and that it verifies; what is there is never replaced."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent.identity.attesting import destination_number, rows_to_add
from agent.identity.certificate import read_chain
from agent.identity.model import NOT_SIGNED, Failure, Verification
from agent.identity.passport import Passport, read_passport
from agent.identity.rows import read_rows
from agent.identity.signing import Signer
from agent.model import CallAttempt
from agent.policy.document import from_toml
from agent.policy.policy import Attestation, SigningSpec
from agent.screening import attempt_of
from agent.sip.scan import scan
from agent.stir.lab_certificates import self_signed, signer_draft
from tests.fakes.calls import CALLED, invite, observe, policy
from tests.fakes.identity import identity

URL = "https://certs.example.net/own.pem"
RANDOM = "00000000-0000-4000-8000-000000000000"
FIXED = "8f4c1f5e-3f0a-4a57-9b0e-0c5f8d1a2b3c"
WHEN = 1_800_000_000.0
SIGNER = Signer(ec.derive_private_key(0x5EED, ec.SECP256R1()), URL)

PBX, GATEWAY, PEER, EXEMPT, STRANGER = "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.99"
OWN = "sip:+12015550100@a.example.net;user=phone"
OTHERS = "sip:+12125550177@a.example.net;user=phone"
NEW = "sip:+13035550142@sbc.example.net;user=phone"

POLICY = f"""
[[trunks]]
id = "pbx"
sources = ["{PBX}"]
customer = "acme"

[[trunks]]
id = "gateway"
sources = ["{GATEWAY}"]
customer = "acme"
default_country = "44"

[[trunks]]
id = "peer"
sources = ["{PEER}"]

[[trunks]]
id = "exempt"
sources = ["{EXEMPT}"]
customer = "acme"

[[customers]]
id = "acme"
numbers = ["2015550100-2015550119"]

[emergency]
numbers = ["999"]
psap_calling = ["2015550101"]

[signing]
gateway_trunks = ["gateway"]
exempt_trunks = ["exempt"]
divert = true

[[signing.origins]]
trunk = "gateway"
origid = "{FIXED}"
"""


def spec_of(text: str = POLICY) -> SigningSpec:
    spec = policy(from_toml(text)).signing
    assert spec is not None
    return spec


SPEC = spec_of()


def attempt(
    source: str,
    calling: str = OWN,
    called: str = CALLED,
    *,
    to: str | None = None,
    headers: tuple[str, ...] = (),
    found: Verification | None = None,
) -> CallAttempt:
    raw = invite(called, calling, to=to, headers=headers)
    trunk = policy(from_toml(POLICY)).addresses.sender(source)
    assert trunk is not None
    made = attempt_of(observe(raw, WHEN, source), scan(raw), trunk)
    made.identity = found
    return made


def added(call: CallAttempt, spec: SigningSpec = SPEC, signer: Signer = SIGNER) -> list[Passport]:
    """The PASSporTs that the call gets, read back."""
    values = rows_to_add(call, spec, signer, WHEN, RANDOM)
    rows = read_rows(values)
    assert [row.fault for row in rows] == [""] * len(values)
    return [read_passport(row.token) for row in rows]


@pytest.mark.parametrize(
    ("source", "calling", "attestation"),
    [
        (PBX, OWN, Attestation.FULL),
        (PBX, OTHERS, Attestation.PARTIAL),
        (PBX, "sip:+442079460123@a.example.net", Attestation.PARTIAL),
        (GATEWAY, OTHERS, Attestation.GATEWAY),
        (GATEWAY, OWN, Attestation.GATEWAY),
        (PEER, OWN, None),
        (EXEMPT, OWN, None),
        (STRANGER, OWN, None),
        (PBX, "sip:anonymous@anonymous.invalid", None),
        (PBX, "sip:alice@a.example.net", None),
        (PBX, "sip:100@a.example.net", None),
        (PBX, "sip:+12012115555@a.example.net", None),  # no NANP number
    ],
)
def test_what_is_attested_goes_by_trunk_customer_and_inventory(
    source: str, calling: str, attestation: Attestation | None
) -> None:
    call = attempt(source, calling)
    assert SPEC.decide(call) is attestation
    assert [passport.claims.attest for passport in added(call)] == ([attestation.value] if attestation else [])


def test_the_token_names_caller_called_time_and_origin() -> None:
    (passport,) = added(attempt(PBX))
    claims = passport.claims
    assert (claims.orig, claims.dest, claims.iat, claims.origid) == ("12015550100", ("13035550199",), int(WHEN), RANDOM)
    assert passport.x5u == URL
    (fixed,) = added(attempt(GATEWAY))
    assert fixed.claims.origid == FIXED


@pytest.mark.parametrize(
    ("source", "called", "to", "dest"),
    [
        (PBX, CALLED, CALLED, "13035550199"),
        (PBX, NEW, CALLED, "13035550199"),  # RFC 8224 4.1: dest is what To says
        (PBX, NEW, "sip:3035550199@pbx.example.net", "13035550199"),
        (GATEWAY, NEW, "sip:02079460123@pbx.example.net", "442079460123"),
        (PBX, NEW, "sip:4711@pbx.example.net", "13035550142"),
        (PBX, NEW, "sip:bob@pbx.example.net", "13035550142"),
        (PBX, "sip:988@sbc.example.net", "sip:988@sbc.example.net", "988"),
        (PBX, "sip:sbc.example.net", CALLED, "13035550199"),
        (PBX, "sip:sbc.example.net", "sip:bob@pbx.example.net", ""),
    ],
)
def test_dest_is_what_the_caller_dialled(source: str, called: str, to: str, dest: str) -> None:
    call = attempt(source, called=called, to=to)
    assert destination_number(call, SPEC) == dest
    assert [passport.claims.dest for passport in added(call)] == ([(dest,)] if dest else [])


@pytest.mark.parametrize(
    ("called", "headers"),
    [
        ("sip:911@sbc.example.net", ()),
        ("sip:999@sbc.example.net", ()),
        ("urn:service:sos.police", ()),
        (CALLED, ("Resource-Priority: esnet.1",)),
    ],
)
def test_a_call_to_an_emergency_service_is_left_as_it_is(called: str, headers: tuple[str, ...]) -> None:
    for source in (PBX, GATEWAY):
        assert added(attempt(source, called=called, headers=headers)) == []


def test_a_call_back_from_an_answering_point_is_vouched_for_like_any_other() -> None:
    call = attempt(PBX, "sip:+12015550101@a.example.net", headers=("Priority: psap-callback",))
    assert [passport.claims.attest for passport in added(call)] == ["A"]


@pytest.mark.parametrize(
    "row",
    [
        identity(WHEN, "12015550100"),
        identity(WHEN, "12015550100").replace("ppt=shaken", 'ppt="Shaken"'),
        "",
        "garbage",
        "a.b.c;info=<https://certs.example.net/1.pem>",
    ],
)
@pytest.mark.parametrize("source", [PBX, GATEWAY])
def test_a_call_that_brings_an_identity_gets_no_other_however_bad_it_is(row: str, source: str) -> None:
    for found in (None, Verification(Failure.INVALID, "no"), Verification(None, "", "A")):
        assert added(attempt(source, headers=(f"Identity: {row}",), found=found)) == []


@pytest.mark.parametrize("found", [None, NOT_SIGNED])
def test_a_passport_of_another_kind_speaks_for_nobodys_number(found: Verification | None) -> None:
    row = identity(WHEN, "12015550100").replace("ppt=shaken", "ppt=rph")
    call = attempt(GATEWAY, headers=(f"Identity: {row}",), found=found)
    assert [passport.claims.attest for passport in added(call)] == ["C"]


def test_in_shadow_mode_it_is_decided_and_nothing_is_added() -> None:
    shadow = spec_of(POLICY.replace("[signing]", '[signing]\nmode = "shadow"'))
    assert shadow.decide(attempt(PBX)) is Attestation.FULL
    assert added(attempt(PBX), shadow) == []


def test_nothing_is_signed_with_a_certificate_that_is_not_valid() -> None:
    key = ec.derive_private_key(0x5EED, ec.SECP256R1())
    for not_before, not_after, rows in ((-10, 10, 1), (-10, -5, 0), (5, 10, 0)):
        draft = signer_draft("1234", WHEN + not_before, WHEN + not_after)
        signer = Signer(key, URL, read_chain(self_signed(draft, key).der).leaf)
        assert len(added(attempt(PBX), signer=signer)) == rows


# -- diversions ------------------------------------------------------------------------------------------------------

CALLER = "sip:+12125550177@a.example.net;user=phone"


def forwarded(
    dest: str = "12015550100",
    called: str = NEW,
    source: str = PBX,
    more: tuple[bytes, ...] = (),
    found: Verification | None = None,
    iat: float = WHEN - 20,
) -> CallAttempt:
    rows = (identity(iat, "12125550177", dest), *(row.decode() for row in more))
    headers = tuple(f"Identity: {row}" for row in rows)
    return attempt(source, CALLER, called, headers=headers, found=found)


def test_a_customer_who_sends_a_signed_call_on_has_that_said_beside_the_original() -> None:
    (div,) = added(forwarded())
    assert div.ppt == "div"
    assert (div.claims.orig, div.claims.div, div.claims.dest) == ("12125550177", "12015550100", ("13035550142",))
    assert div.claims.iat == int(WHEN) - 20


def test_a_call_that_goes_where_its_passport_says_is_not_diverted() -> None:
    assert added(forwarded(dest="13035550142")) == []


def test_only_who_owns_the_number_that_was_called_can_divert_from_it() -> None:
    assert added(forwarded(dest="13035550199")) == []
    assert added(forwarded(source=PEER)) == []
    assert added(forwarded(source=EXEMPT)) == []


def test_the_passport_of_another_caller_is_no_original() -> None:
    row = identity(WHEN, "12125550178", "12015550100")
    assert added(attempt(PBX, CALLER, NEW, headers=(f"Identity: {row}",))) == []


@pytest.mark.parametrize("failure", sorted(set(Failure) - {Failure.MISSING}))
def test_nothing_is_built_on_an_original_that_verification_found_bad(failure: Failure) -> None:
    rows = len(added(forwarded(found=Verification(failure, "no"))))
    # Another destination than the one that it names is what a diversion explains.
    assert rows == (failure is Failure.MISMATCH)


def test_a_further_diversion_continues_the_chain() -> None:
    first = SIGNER.sign_diversion("12125550177", ("12015550105",), "12015550100", int(WHEN) - 20)
    (div,) = added(forwarded(more=(first,)))
    assert (div.claims.div, div.claims.dest) == ("12015550105", ("13035550142",))
    there = SIGNER.sign_diversion("12125550177", ("13035550142",), "12015550105", int(WHEN) - 20)
    assert added(forwarded(more=(there, first))) == []


def test_without_divert_nothing_is_said_of_diversions() -> None:
    assert added(forwarded(), spec_of(POLICY.replace("divert = true", ""))) == []


def test_diversions_of_an_emergency_call_are_left_alone() -> None:
    assert added(forwarded(called="sip:911@sbc.example.net")) == []
