"""What strangers show: whatever the bytes are, an answer of ours comes of it and never a fault."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from controller.authority import tokens
from controller.authority.issuer import Issuer, make_authority
from controller.authority.names import read_name
from controller.authority.requests import read_request
from controller.errors import Invalid, Unauthenticated
from controller.model import PeerKind
from tests.controller.stores import WHEN

KEY = ec.generate_private_key(ec.SECP256R1())
REQUEST = (x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(KEY, hashes.SHA256())).public_bytes(
    Encoding.DER
)
ISSUER = Issuer("example.net", (make_authority("example.net", KEY, WHEN),), KEY)
CERTIFICATE = x509.load_der_x509_certificate(
    ISSUER.issue(PeerKind.AGENT, "agent-1", KEY.public_key(), 60.0, WHEN)[1]
).public_bytes(Encoding.PEM)


def edited(whole: bytes) -> st.SearchStrategy[bytes]:
    """The same with some bytes changed, left out or put in between."""

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = whole
        for at, gone, new in edits:
            data = data[: at % len(whole)] + new + data[at % len(whole) + gone :]
        return data

    edit = st.tuples(st.integers(0, len(whole)), st.integers(0, 3), st.binary(max_size=3))
    return st.lists(edit, max_size=3).map(apply)


@given(st.binary(max_size=300) | edited(REQUEST))
def test_a_request_is_read_or_refused(der: bytes) -> None:
    try:
        key = read_request(der)
    except Invalid:
        return
    assert key == KEY.public_key(), "what was changed is not signed by the key"


@given(st.binary(max_size=300) | edited(CERTIFICATE))
def test_a_certificate_has_a_name_or_is_refused(pem: bytes) -> None:
    try:
        named = read_name(pem)
    except Unauthenticated:
        return
    assert named.kind in PeerKind
    assert 1 <= len(named.name) <= 64


@given(st.text(max_size=100) | st.from_regex(r"sbc[el]_[0-9a-f]{12}_[0-9a-f]{64}", fullmatch=True))
def test_a_token_is_one_or_is_not_known(text: str) -> None:
    try:
        secret = tokens.read(tokens.ENROLMENT, text)
    except Unauthenticated:
        return
    assert text.startswith(f"sbce_{secret.id}_")
    assert secret.sha256.hex() not in text


def test_what_was_made_is_read() -> None:
    text, secret = tokens.make(tokens.LOGIN)
    assert tokens.read(tokens.LOGIN, text) == secret
    assert read_request(REQUEST) == KEY.public_key()
    assert (named := read_name(CERTIFICATE)).name == "agent-1"
    assert (named.trust_domain, named.kind, named.not_after) == ("example.net", PeerKind.AGENT, WHEN + 60)


def names_of(*names: x509.GeneralName) -> bytes:
    """A certificate with these names."""
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(ISSUER.root.not_valid_before_utc)
        .not_valid_after(ISSUER.root.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .sign(KEY, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)


def test_a_certificate_of_two_names_or_of_another_form_has_none() -> None:
    uri = x509.UniformResourceIdentifier
    good = uri("spiffe://example.net/agent/a")
    assert read_name(names_of(good, x509.DNSName("x.example"))).name == "a"
    for names in (
        [good, uri("spiffe://example.net/operator/b")],
        [x509.DNSName("agent-1")],
        [uri("spiffe://example.net/admin/a")],
        [uri("spiffe://example.net/agent/a/b")],
        [uri("spiffe://example.net/agent/../operator/a")],
        [uri("spiffe://Example.net/agent/a")],
        [uri("spiffe://example.net/agent/")],
        [uri("https://example.net/agent/a")],
        [uri("spiffe://example.net:1/agent/a")],
        [uri("spiffe://example.net/agent/a?x")],
    ):
        try:
            read_name(names_of(*names))
        except Unauthenticated:
            continue
        raise AssertionError(names)
