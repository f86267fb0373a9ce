"""Who may call what: one line for each method of every contract. A method that is not here is not served.

Knows names and roles; who somebody is, the gate finds out.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from controller.model import Peer, PeerKind, Role


class Open(Enum):
    """Not a matter of an operator's role."""

    ANYONE = "anyone"  # whoever reaches us: what the call holds is all that counts
    AGENT = "agent"  # agents, and nobody else
    FLEET = "fleet"  # agents, and controllers that pass on what agents ask


Permission = Open | Role
"""A role means operators who have it."""


def _all(service: str, methods: Mapping[str, Permission]) -> dict[str, Permission]:
    return {f"/{service}/{method}": permission for method, permission in methods.items()}


PERMISSIONS: Final[Mapping[str, Permission]] = {
    **_all("grpc.health.v1.Health", {"Check": Open.ANYONE, "List": Open.ANYONE, "Watch": Open.ANYONE}),
    **_all("sbcedge.control.v1.EnrollmentService", {"Enroll": Open.ANYONE}),
    **_all("sbcedge.control.v1.IdentityService", {"RenewCertificate": Open.AGENT}),
    **_all("sbcedge.control.v1.ControlService", {"OpenSession": Open.AGENT}),
    **_all("sbcedge.control.v1.ArtifactService", {"FetchArtifact": Open.AGENT}),
    **_all("sbcedge.control.v1.QuotaService", {"StreamQuota": Open.FLEET}),
    **_all("sbcedge.report.v1.ReportService", {"UploadRecords": Open.AGENT}),
    **_all(
        "sbcedge.fleet.v1.FleetService",
        {
            "ListAgents": Role.VIEWER,
            "GetAgent": Role.VIEWER,
            "WatchAgents": Role.VIEWER,
            "RunCommand": Role.VIEWER,  # more where the command does something: controller/fleet/commands.py
            "RevokeAgent": Role.OPERATOR,
        },
    ),
    **_all(
        "sbcedge.fleet.v1.AccessService",
        {
            "CreateEnrollmentToken": Role.ADMIN,
            "ListEnrollmentTokens": Role.ADMIN,
            "RevokeEnrollmentToken": Role.ADMIN,
            "CreateOperator": Role.ADMIN,
            "ListOperators": Role.ADMIN,
            "RevokeOperator": Role.ADMIN,
            "IssueOperatorCertificate": Role.VIEWER,  # for whoever asks, and nobody else
        },
    ),
    **_all(
        "sbcedge.fleet.v1.PolicyService",
        {
            "GetPolicy": Role.VIEWER,
            "ListPolicies": Role.VIEWER,
            "DiffPolicy": Role.VIEWER,
            "ApplyPolicy": Role.OPERATOR,
            "RollbackPolicy": Role.OPERATOR,
        },
    ),
    **_all(
        "sbcedge.fleet.v1.RolloutService",
        {
            "GetRollout": Role.VIEWER,
            "WatchRollout": Role.VIEWER,
            "StartRollout": Role.OPERATOR,
            "HaltRollout": Role.OPERATOR,
        },
    ),
    **_all(
        "sbcedge.fleet.v1.UpgradeService",
        {"GetUpgrade": Role.VIEWER, "StartUpgrade": Role.OPERATOR, "HaltUpgrade": Role.OPERATOR},
    ),
    **_all(
        "sbcedge.fleet.v1.ListService",
        {
            "ListLists": Role.VIEWER,
            "GetListStatus": Role.VIEWER,
            "LookupNumber": Role.VIEWER,
            "ImportList": Role.OPERATOR,
        },
    ),
    **_all(
        "sbcedge.fleet.v1.LimitService",
        {"ListFleetLimits": Role.VIEWER, "SetFleetLimit": Role.OPERATOR, "DeleteFleetLimit": Role.OPERATOR},
    ),
    **_all("sbcedge.fleet.v1.RecordService", {"QueryRecords": Role.VIEWER}),
    **_all("sbcedge.fleet.v1.AuditService", {"ListAuditEntries": Role.VIEWER, "VerifyAudit": Role.VIEWER}),
}


PASSED_ON: Final = frozenset(
    {"/sbcedge.fleet.v1.FleetService/RunCommand", "/sbcedge.fleet.v1.LimitService/ListFleetLimits"}
)
"""What controllers ask each other, for operators whose role they have seen."""


def why_not(peer: Peer, permission: Permission, method: str) -> str:
    """ "" if `peer` may call this, else why it may not."""
    if permission is Open.ANYONE:
        return ""
    if permission is Open.AGENT:
        return "" if peer.kind is PeerKind.AGENT else "this is for agents"
    if permission is Open.FLEET:
        return "" if peer.kind in (PeerKind.AGENT, PeerKind.CONTROLLER) else "this is for agents"
    if peer.kind is PeerKind.AGENT:
        return "this is for operators"
    if peer.kind is PeerKind.CONTROLLER:
        return "" if method in PASSED_ON else "this is for operators"
    role = peer.role
    needed = permission.word
    return "" if role is not None and role >= permission else f"needs the role {needed}; {peer} has {_word(role)}"


def _word(role: Role | None) -> str:
    return "none" if role is None else role.word
