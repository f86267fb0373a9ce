"""The lint of the SHAKEN profile on certificates made to break one rule each."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.identity.certificate import read_certificate
from agent.identity.profile import Severity, lint
from agent.identity.profile_rules import Role, role_of
from agent.identity.tnauthlist import NumberRange, TnAuthList
from agent.stir.lab import make_laboratory
from agent.stir.lab_certificates import (
    DAY,
    Draft,
    Holder,
    intermediate_draft,
    key_usage,
    root_draft,
    self_signed,
    signer_draft,
)

WHEN = 1_795_000_000.0  # 2026-11-18
LAB = make_laboratory("1234", WHEN, 90 * DAY)
SIGNER = signer_draft("1234", WHEN - DAY, WHEN + 90 * DAY)
C, ORG, CN = x509.NameOID.COUNTRY_NAME, x509.NameOID.ORGANIZATION_NAME, x509.NameOID.COMMON_NAME


def codes(made: Holder) -> list[str]:
    return [finding.code for finding in lint(read_certificate(made.der))]


def subject(*parts: tuple[x509.ObjectIdentifier, str]) -> Callable[[Draft], Draft]:
    return lambda draft: replace(
        draft, subject=x509.Name([x509.NameAttribute(oid, text, _validate=False) for oid, text in parts])
    )


def test_certificates_of_the_laboratory_break_no_rule() -> None:
    for holder in (LAB.root, LAB.intermediate, LAB.signer, LAB.expired, LAB.revoked, LAB.foreign_root, LAB.foreign):
        assert lint(read_certificate(holder.der)) == ()


def test_roles_are_told_apart() -> None:
    roles = [role_of(read_certificate(holder.der)) for holder in (LAB.signer, LAB.intermediate, LAB.root)]
    assert roles == [Role.SIGNER, Role.INTERMEDIATE, Role.ROOT]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: replace(d, tn_auth_list=None), ["common-name-code", "tn-auth-list", "code-format"]),
        (lambda d: replace(d, tn_auth_list_critical=True), ["tn-auth-list"]),
        (lambda d: replace(d, tn_auth_list=TnAuthList(("1234", "5678"))), ["tn-auth-list"]),
        (lambda d: replace(d, tn_auth_list=TnAuthList(("1234",), (NumberRange("12015550123"),))), ["tn-auth-list"]),
        (lambda d: replace(d, tn_auth_list=b"\x30\x00"), ["common-name-code", "tn-auth-list", "code-format"]),
        (lambda d: replace(d, tn_auth_list=TnAuthList(("12a4",))), ["common-name-code", "code-format"]),
        (lambda d: replace(d, basic=None), ["basic-constraints"]),
        (lambda d: replace(d, usage=None), ["key-usage"]),
        (lambda d: replace(d, usage=key_usage("digital_signature", "key_agreement")), ["key-usage-signer"]),
        (lambda d: replace(d, policy=False), ["policy", "policy-id"]),
        (lambda d: replace(d, crl_point=False), ["crl-point"]),
        (
            lambda d: replace(d, others=((x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.2.3")]), False),)),
            ["extensions"],
        ),
        (subject((C, "US"), (ORG, "X"), (CN, "1234")), ["common-name", "common-name-code"]),
        (subject((C, "US"), (ORG, "X"), (CN, "SHAKEN-1234")), ["common-name-code"]),
        (subject((C, "US"), (CN, "SHAKEN 1234")), ["organization"]),
        (subject((C, "us"), (ORG, "X"), (CN, "SHAKEN 1234")), ["country", "country-us"]),
        (subject((C, "CA"), (ORG, "X"), (CN, "SHAKEN 1234")), ["country-us"]),
        (subject((ORG, "X"), (CN, "SHAKEN 1234")), ["subject", "country", "country-us"]),
        (subject((C, "US"), (ORG, "X"), (CN, "SHAKEN 1234"), (CN, "SHAKEN 1234")), ["subject"]),
    ],
)
def test_signer_that_breaks_a_rule_is_told(change: Callable[[Draft], Draft], expected: list[str]) -> None:
    assert codes(LAB.intermediate.issue(change(SIGNER))) == expected


def test_keys_and_signatures_other_than_es256_are_told() -> None:
    assert codes(LAB.intermediate.issue(SIGNER, key=ec.generate_private_key(ec.SECP384R1()))) == ["public-key"]
    assert codes(LAB.intermediate.issue(SIGNER, algorithm=hashes.SHA512())) == ["signature-algorithm"]
    assert codes(LAB.intermediate.issue(SIGNER, serial=5)) == ["serial-number-size"]


def test_authorities_that_break_rules_are_told() -> None:
    draft = intermediate_draft("Issuing CA", WHEN)
    wrong = replace(draft, usage=key_usage("key_cert_sign", "crl_sign"), tn_auth_list=TnAuthList(("1234",)))
    assert codes(LAB.root.issue(wrong)) == ["common-name", "key-usage-authority", "tn-auth-list-authority"]
    root = replace(root_draft("SHAKEN Anchor", WHEN), policy=True, crl_point=True)
    assert codes(self_signed(root)) == ["common-name-root", "policy-root", "crl-point-root"]


@pytest.mark.parametrize(
    ("day", "severity"),
    [(datetime(2023, 3, 11, tzinfo=UTC), Severity.NOTICE), (datetime(2023, 3, 12, tzinfo=UTC), Severity.ERROR)],
)
def test_rule_that_came_later_is_a_notice(day: datetime, severity: Severity) -> None:
    """Edition 5 was published on 2022-12-12; certificates of signers had 90 days."""
    made = LAB.intermediate.issue(replace(SIGNER, not_before=day.timestamp()), serial=5)
    (finding,) = lint(read_certificate(made.der))
    assert (finding.code, finding.severity) == ("serial-number-size", severity)
    assert finding.text == "serial number of 3 bits, not 64 or more (ATIS-1000080.v005)"
