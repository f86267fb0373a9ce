"""From a certificate to an anchor: who issued for whom (RFC 5280 6.1), built and bounded here.

Knows certificates. Knows no revocation and no profile: `judge` says of a finished path what else is wrong with it.
Validity is no reason to refuse a path, but one that holds at `when` is preferred.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent.identity.certificate import Certificate
from agent.identity.names import NameKey
from agent.identity.signatures import signed_by

PATH_MAX: Final = 6
"""Certificates of a path, leaf and anchor included. SHAKEN uses three; delegation (RFC 9060) adds one or two."""

SIGNATURES_MAX: Final = 40
"""Signatures verified for one path, so that certificates of one name by the dozen cost milliseconds, not seconds."""

Anchors = Mapping[NameKey, Sequence[Certificate]]


@dataclass(frozen=True, slots=True)
class Path:
    """From leaf to anchor, both included. `fault` says why it is not one to rely on; "" for a good one.

    Where there is no path, `certificates` is the leaf alone.
    """

    certificates: tuple[Certificate, ...]
    fault: str = ""

    @property
    def not_before(self) -> float:
        """From when on all its certificates are valid."""
        return max([certificate.not_before for certificate in self.certificates])

    @property
    def not_after(self) -> float:
        """Until when all its certificates are valid."""
        return min([certificate.not_after for certificate in self.certificates])


def by_subject(certificates: Iterable[Certificate]) -> Anchors:
    """Certificates by their subject."""
    found: dict[NameKey, list[Certificate]] = {}
    for certificate in certificates:
        found.setdefault(certificate.subject.key, []).append(certificate)
    return found


def find_path(
    leaf: Certificate,
    helpers: Iterable[Certificate],
    anchors: Anchors,
    when: float,
    judge: Callable[[Sequence[Certificate]], str] = lambda _path: "",
) -> Path:
    """The best path from `leaf` over `helpers` to one of `anchors`: good before faulty, valid at `when` before not.

    A helper that is an anchor, too, counts as the anchor. Never raises.
    """
    return _Search(helpers, anchors, when, judge).run(leaf)


class _Search:
    def __init__(
        self,
        helpers: Iterable[Certificate],
        anchors: Anchors,
        when: float,
        judge: Callable[[Sequence[Certificate]], str],
    ) -> None:
        self._helpers = by_subject(helpers)
        self._anchors = anchors
        self._when = when
        self._judge = judge
        self._signatures = SIGNATURES_MAX
        self._best: Path | None = None
        self._obstacle = ""

    def run(self, leaf: Certificate) -> Path:
        open_paths: list[tuple[Certificate, ...]] = [(leaf,)]
        while open_paths and self._signatures > 0:
            path = open_paths.pop()
            last = path[-1]
            anchors = self._anchors.get(last.issuer.key, ())
            for anchor in anchors:
                if self._issued(anchor, path) and self._finished((*path, anchor)):
                    break
            if self._best is not None and self._holds(self._best):
                break
            if len(path) >= PATH_MAX - 1:
                continue
            # The last pushed is looked at first: the order of the chain as served.
            for helper in reversed(self._helpers.get(last.issuer.key, ())):
                if helper not in path and helper not in anchors and self._issued(helper, path):
                    open_paths.append((*path, helper))  # noqa: PERF401  _issued counts
        if self._best is not None:
            return self._best
        if self._signatures <= 0:
            return Path((leaf,), f"more than {SIGNATURES_MAX} signatures would have to be verified to find its anchor")
        return Path((leaf,), self._obstacle or f"no anchor of trust vouches for its issuer, {leaf.issuer.text}")

    def _finished(self, certificates: tuple[Certificate, ...]) -> bool:
        """Keep this path if it is better than what we have; whether it is as good as can be."""
        path, best = Path(certificates, self._judge(certificates)), self._best
        if best is None or (not path.fault, self._valid(path)) > (not best.fault, self._valid(best)):
            self._best = path
        return self._holds(path)

    def _holds(self, path: Path) -> bool:
        return not path.fault and self._valid(path)

    def _valid(self, path: Path) -> bool:
        return path.not_before <= self._when <= path.not_after

    def _issued(self, issuer: Certificate, path: tuple[Certificate, ...]) -> bool:
        """Whether `issuer` may sign certificates and signed the last one of the path; what forbids it is kept."""
        child = path[-1]
        if child.authority_key_id and issuer.key_id and child.authority_key_id != issuer.key_id:
            return False  # an earlier or later key of the same authority
        if obstacle := _obstacle(issuer, path):
            self._obstacle = f"its issuer, {issuer.subject.text}, {obstacle}"
            return False
        self._signatures -= 1
        if not signed_by(issuer.public_key, child.signature, child.signed, child.hash):
            self._obstacle = f"{issuer.subject.text} did not sign {child.subject.text}"
            return False
        return True


def _obstacle(issuer: Certificate, path: tuple[Certificate, ...]) -> str:
    """Why this certificate must not have issued the last one of the path (RFC 5280 6.1.4 k to n), "" if it may."""
    if not issuer.is_authority:
        return "is no authority"
    if issuer.key_usage is not None and not issuer.key_usage.key_cert_sign:
        return "may not sign certificates"
    if issuer.critical:
        return f"has a critical extension that is not understood ({issuer.critical[0]})"
    if issuer.fault:
        return f"is faulty: {issuer.fault}"
    below = sum([not certificate.self_issued for certificate in path[1:]])
    if issuer.path_length is not None and below > issuer.path_length:
        return f"may have {issuer.path_length} authorities below it, and has {below}"
    return ""
