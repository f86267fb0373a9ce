"""Where a certificate departs from the profile of SHAKEN certificates: ATIS-1000080 and the certificate policy.

Knows which document made each rule, whom it binds, and from when on certificates had to keep it. Says nothing about
trust: calls are verified with certificates that break some of these rules, since many of those in use do. What must
hold for a call is in agent.identity.trust.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from agent.identity import profile_rules as rules
from agent.identity.certificate import Certificate
from agent.identity.profile_rules import Role, role_of


class Severity(StrEnum):
    """How much a departure counts."""

    ERROR = "error"  # the rule was in force when the certificate was issued
    NOTICE = "notice"  # the rule came later; the next certificate has to keep it


class Finding(NamedTuple):
    """One departure: a stable code for scripts, and what it is in words."""

    code: str
    severity: Severity
    text: str


class _Edition(NamedTuple):
    """A document, and from when on (epoch seconds) new certificates of authorities and of signers must follow it."""

    title: str
    authorities: float
    signers: float


def _edition(title: str, published: datetime, grace: int = 90) -> _Edition:
    """Signers' certificates follow after `grace` days, the time that the certificate policy gives authorities."""
    return _Edition(title, published.timestamp(), (published + timedelta(days=grace)).timestamp())


_V3: Final = _edition("ATIS-1000080.v003", datetime(2020, 9, 4, tzinfo=UTC))
_V4: Final = _edition("ATIS-1000080.v004", datetime(2021, 10, 18, tzinfo=UTC))
_V5: Final = _edition("ATIS-1000080.v005", datetime(2022, 12, 12, tzinfo=UTC))
# Authorities had to hand in their practice statements first, hence the longer grace.
_CP13: Final = _edition("SHAKEN Certificate Policy 1.3", datetime(2021, 8, 18, tzinfo=UTC), grace=145)
_CP14: Final = _edition("SHAKEN Certificate Policy 1.4", datetime(2023, 6, 6, tzinfo=UTC))


def lint(certificate: Certificate) -> tuple[Finding, ...]:
    """Every departure of one certificate from the profile of its role, in the order of the rules. Never raises."""
    role = role_of(certificate)
    findings = []
    for rule in _RULES:
        if role in rule.roles and (text := rule.check(certificate)):
            since = rule.edition.signers if role is Role.SIGNER else rule.edition.authorities
            severity = Severity.ERROR if certificate.not_before >= since else Severity.NOTICE
            findings.append(Finding(rule.code, severity, f"{text} ({rule.edition.title})"))
    return tuple(findings)


_SIGNER, _ISSUED, _ANY = Role.SIGNER, Role.SIGNER | Role.INTERMEDIATE, ~Role(0)
_AUTHORITY = Role.INTERMEDIATE | Role.ROOT


class _Rule(NamedTuple):
    code: str
    edition: _Edition
    roles: Role
    check: Callable[[Certificate], str]


_RULES: Final = (
    _Rule("version", _V3, _ANY, rules.version),
    _Rule("serial-number-size", _V5, _ANY, rules.serial_size),
    _Rule("signature-algorithm", _V3, _ANY, rules.signature_algorithm),
    _Rule("public-key", _V3, _ANY, rules.public_key),
    _Rule("subject", _V3, _ANY, rules.subject),
    _Rule("common-name", _V3, _ANY, rules.common_name),
    _Rule("common-name-code", _V4, _SIGNER, rules.common_name_code),
    _Rule("common-name-root", _V5, Role.ROOT, rules.common_name_root),
    _Rule("organization", _V4, _ANY, rules.organization),
    _Rule("country", _V5, _ANY, rules.country_code),
    _Rule("country-us", _CP14, _ANY, rules.country_us),
    _Rule("subject-serial-number", _CP13, _SIGNER, rules.serial_attribute),
    _Rule("subject-key-id", _V3, _ANY, rules.key_id),
    _Rule("subject-key-id-size", _V4, _ANY, rules.key_id_size),
    _Rule("authority-key-id", _V3, _ISSUED, rules.authority_key_id),
    _Rule("authority-key-id-root", _V3, Role.ROOT, rules.authority_key_id_root),
    _Rule("basic-constraints", _V3, _ANY, rules.basic_constraints),
    _Rule("key-usage", _V3, _ANY, rules.key_usage),
    _Rule("key-usage-signer", _V3, _SIGNER, rules.key_usage_signer),
    _Rule("key-usage-authority", _V3, _AUTHORITY, rules.key_usage_authority),
    _Rule("policy", _V3, _ISSUED, rules.policy),
    _Rule("policy-id", _CP13, _ISSUED, rules.policy_id),
    _Rule("policy-root", _V5, Role.ROOT, rules.policy_root),
    _Rule("crl-point", _V3, _ISSUED, rules.crl_point),
    _Rule("crl-issuer", _V4, _ISSUED, rules.crl_issuer),
    _Rule("crl-point-root", _V5, Role.ROOT, rules.crl_root),
    _Rule("extensions", _V5, _ANY, rules.not_specified),
    _Rule("tn-auth-list", _V3, _SIGNER, rules.tn_auth_list),
    _Rule("code-format", _V5, _SIGNER, rules.code_format),
    _Rule("tn-auth-list-authority", _V3, _AUTHORITY, rules.tn_auth_list_authority),
)
