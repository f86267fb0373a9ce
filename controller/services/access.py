"""Who may join, and who may ask. Thin: the authority makes, the store keeps."""

# ruff: noqa: ARG002, N802  (names and arguments are those of the contract)

from collections.abc import Callable
from typing import Final

from controller.authority.authority import Authority
from controller.errors import Invalid
from controller.services.caller import act, caller
from controller.services.fleet_wire import operator_to, role_from, seconds, token_to
from controller.services.gate import Context
from controller.services.wire import timestamp
from controller.store import Store
from sbcedge.fleet.v1 import fleet_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2_grpc as pb_grpc

NOTE_MAX: Final = 200


class AccessService(pb_grpc.AccessServiceServicer):
    """Secrets are shown once, in the answer that made them."""

    def __init__(self, store: Store, authority: Authority, clock: Callable[[], float]) -> None:
        self._store = store
        self._authority = authority
        self._clock = clock

    async def CreateEnrollmentToken(
        self, request: pb.CreateEnrollmentTokenRequest, context: Context
    ) -> pb.CreateEnrollmentTokenResponse:
        if len(request.note) > NOTE_MAX:
            raise Invalid("note", f"is longer than {NOTE_MAX} characters")
        valid_for = seconds(request.valid_for, "valid_for") if request.HasField("valid_for") else None
        token, secret = await self._authority.create_token(
            act("token.create", note=request.note), valid_for, request.note, request.agent_id, self._clock()
        )
        return pb.CreateEnrollmentTokenResponse(
            id=token.id,
            token=secret,
            expires_at=timestamp(token.expires_at),
            authority_sha256=self._authority.sha256,
        )

    async def ListEnrollmentTokens(
        self, request: pb.ListEnrollmentTokensRequest, context: Context
    ) -> pb.ListEnrollmentTokensResponse:
        tokens = await self._store.access.tokens()
        return pb.ListEnrollmentTokensResponse(tokens=[token_to(token) for token in tokens])

    async def RevokeEnrollmentToken(
        self, request: pb.RevokeEnrollmentTokenRequest, context: Context
    ) -> pb.RevokeEnrollmentTokenResponse:
        await self._store.access.revoke_token(request.id, self._clock(), act("token.revoke"))
        return pb.RevokeEnrollmentTokenResponse()

    async def CreateOperator(self, request: pb.CreateOperatorRequest, context: Context) -> pb.CreateOperatorResponse:
        valid_for = seconds(request.valid_for, "valid_for") if request.HasField("valid_for") else None
        operator, token = await self._authority.create_operator(
            act("operator.create"), request.name, role_from(request.role), valid_for, self._clock()
        )
        return pb.CreateOperatorResponse(login_token=token, expires_at=timestamp(operator.expires_at))

    async def ListOperators(self, request: pb.ListOperatorsRequest, context: Context) -> pb.ListOperatorsResponse:
        operators = await self._store.access.operators()
        return pb.ListOperatorsResponse(operators=[operator_to(operator) for operator in operators])

    async def RevokeOperator(self, request: pb.RevokeOperatorRequest, context: Context) -> pb.RevokeOperatorResponse:
        await self._store.access.revoke_operator(request.name, self._clock(), act("operator.revoke"))
        return pb.RevokeOperatorResponse()

    async def IssueOperatorCertificate(
        self, request: pb.IssueOperatorCertificateRequest, context: Context
    ) -> pb.IssueOperatorCertificateResponse:
        issued = await self._authority.operator_certificate(
            act("operator.certificate"), caller().name, request.certificate_request, self._clock()
        )
        return pb.IssueOperatorCertificateResponse(
            certificate_chain=issued.chain, trust_bundle=issued.trust_bundle, not_after=timestamp(issued.not_after)
        )
