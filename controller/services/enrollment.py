"""How an agent becomes a member of the fleet, and stays one. Thin: the authority judges."""

# ruff: noqa: ARG002, N802  (names and arguments are those of the contract)

from collections.abc import Callable
from typing import Final

from controller.authority.authority import Authority, EnrolmentRequest
from controller.errors import Invalid
from controller.services.caller import caller
from controller.services.gate import Context
from controller.services.wire import credentials_to
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.control.v1 import control_pb2_grpc as pb_grpc

TEXT_MAX: Final = 255


class EnrollmentService(pb_grpc.EnrollmentServiceServicer):
    """The one that strangers reach: all that it believes is the token."""

    def __init__(self, authority: Authority, clock: Callable[[], float]) -> None:
        self._authority = authority
        self._clock = clock

    async def Enroll(self, request: pb.EnrollRequest, context: Context) -> pb.EnrollResponse:
        for field in ("token", "instance_uid", "idempotency_key", "hostname", "version"):
            if len(getattr(request, field)) > TEXT_MAX:
                raise Invalid(field, f"is longer than {TEXT_MAX} characters")
        enrolled = await self._authority.enrol(
            EnrolmentRequest(
                token=request.token,
                certificate_request=request.certificate_request,
                instance_uid=request.instance_uid,
                idempotency_key=request.idempotency_key,
                hostname=request.hostname,
                version=request.version,
            ),
            self._clock(),
        )
        return pb.EnrollResponse(agent_id=enrolled.agent_id, credentials=credentials_to(enrolled.credentials))


class IdentityService(pb_grpc.IdentityServiceServicer):
    """Certificates for those who have one."""

    def __init__(self, authority: Authority, clock: Callable[[], float]) -> None:
        self._authority = authority
        self._clock = clock

    async def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: Context
    ) -> pb.RenewCertificateResponse:
        credentials = await self._authority.renew(
            caller(), request.certificate_request, request.instance_uid, self._clock()
        )
        return pb.RenewCertificateResponse(credentials=credentials_to(credentials))
