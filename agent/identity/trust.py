"""Whether a chain is one to rely on: anchors of trust, revocation lists and the profile of SHAKEN certificates.

Knows what RFC 8226, RFC 9060 and ATIS-1000080 demand of who signs a PASSporT. Performs nothing, keeps nothing: a
TrustStore is built whole of one trust list and its CRLs, and replaced as a whole. It judges neither its own age nor
the validity of a certificate: both are there for those who watch and verify (`expires`, `Credential.not_after`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

from agent.identity.certificate import Certificate, Chain
from agent.identity.constraints import ClaimConstraints
from agent.identity.crl import Crl
from agent.identity.model import Credential
from agent.identity.paths import Anchors, Path, by_subject, find_path


@dataclass(frozen=True)
class TrustStore:
    """Whom we trust to issue certificates, and which of them were revoked.

    `sequence` and `expires` (epoch seconds, None: never) are those of the trust list; what is past `expires` is still
    trusted here, since nobody would be otherwise: an alarm says so. `intermediates` are authorities below an anchor
    that are known beforehand, for signers who serve nothing but their own certificate; they are not trusted.
    """

    anchors: tuple[Certificate, ...]
    crls: tuple[Crl, ...] = ()
    sequence: int = 0
    expires: float | None = None
    intermediates: tuple[Certificate, ...] = ()

    @cached_property
    def _anchors(self) -> Anchors:
        return by_subject(self.anchors)

    def assess(self, chain: Chain, when: float) -> Credential:
        """What the chain of a signer is worth. Never raises: `fault` says why it is not one to rely on.

        Validity is left to the verifier: `not_before` and `not_after` are what all certificates of the path have in
        common. Of several paths one that is valid at `when` (epoch seconds) is taken.
        """
        leaf = chain.leaf
        fault = _profile_fault(leaf)
        path = Path((leaf,), fault)
        if not fault:
            helpers = (*chain.certificates[1:], *self.intermediates)
            path = find_path(leaf, helpers, self._anchors, when, self._path_fault)
        return _credential(leaf, path)

    def _path_fault(self, path: Sequence[Certificate]) -> str:
        return self._revocation(path) or _scope_fault(path)

    def _revocation(self, path: Sequence[Certificate]) -> str:
        for certificate in path:
            for crl in self.crls:
                if crl.revokes(certificate):
                    what = "it" if certificate is path[0] else f"its issuer, {certificate.subject.text},"
                    return f"{what} was revoked (serial {certificate.serial:x}, list of {crl.issuer.text})"
        return ""


def refused(fault: str) -> Credential:
    """The credential that a document amounts to which is no chain at all."""
    return Credential(None, "", "", 0.0, 0.0, "", fault)


def _credential(leaf: Certificate, path: Path) -> Credential:
    codes = leaf.tn_auth_list.codes if leaf.tn_auth_list is not None else ()
    constraints = ClaimConstraints()
    for certificate in path.certificates:  # those of an authority bind whom it certifies (RFC 8226 8)
        constraints = constraints.and_also(certificate.constraints)
    return Credential(
        public_key=_p256(leaf),
        spc=codes[0] if codes else "",
        issuer=leaf.issuer.text,
        not_before=path.not_before,
        not_after=path.not_after,
        sha256=leaf.sha256,
        fault=path.fault,
        mandatory=constraints.mandatory,
        permitted=constraints.permitted,
        excluded=constraints.excluded,
    )


def _p256(certificate: Certificate) -> EllipticCurvePublicKey | None:
    key = certificate.public_key
    return key if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1) else None


def _profile_fault(leaf: Certificate) -> str:
    """Why this certificate must not sign a PASSporT of SHAKEN, whoever issued it (RFC 8226, ATIS-1000080)."""
    if leaf.fault:
        return leaf.fault
    if leaf.is_authority:
        return "the first certificate is that of an authority, not of a signer"
    if leaf.critical:
        return f"it has a critical extension that is not understood ({leaf.critical[0]})"
    if _p256(leaf) is None:
        return "its key is not of P-256, which ES256 needs"
    # Without the extension any use is allowed (RFC 5280 4.2.1.3); that ATIS-1000080 demands it is for the lint to say.
    if leaf.key_usage is not None and not leaf.key_usage.digital_signature:
        return "its key usage does not allow digital signatures"
    numbers = leaf.tn_auth_list
    if numbers is None:
        return "it has no TNAuthList"
    if len(numbers.codes) != 1 or numbers.numbers:
        # A delegate certificate for numbers signs for these alone, and a Credential does not carry them.
        return f"it has {len(numbers.codes)} service provider codes and {len(numbers.numbers)} numbers, not one code"
    return ""


def _scope_fault(path: Sequence[Certificate]) -> str:
    """Whether each certificate below one with a TNAuthList has one that lies inside it (RFC 9060 4)."""
    scope = None
    for certificate in reversed(path):
        own = certificate.tn_auth_list
        if scope is not None and (own is None or not scope.encompasses(own)):
            return f"{certificate.subject.text} speaks for more than its issuer does"
        scope = own or scope
    return ""
