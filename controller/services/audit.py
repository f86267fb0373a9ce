"""What operators did. Thin: the store keeps the chain and walks it."""

# ruff: noqa: ARG002, N802  (names and arguments are those of the contract)

from typing import Final

from controller.errors import Invalid
from controller.services.fleet_wire import entry_to
from controller.services.gate import Context
from controller.store import Store
from sbcedge.fleet.v1 import fleet_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2_grpc as pb_grpc

ENTRIES: Final = 100
ENTRIES_MAX: Final = 1000


class AuditService(pb_grpc.AuditServiceServicer):
    """Reads only."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        if request.after >= 1 << 63:
            raise Invalid("after", "is beyond every entry")
        entries = await self._store.audit.entries(request.after, min(request.limit or ENTRIES, ENTRIES_MAX))
        return pb.ListAuditEntriesResponse(entries=[entry_to(entry) for entry in entries])

    async def VerifyAudit(self, request: pb.VerifyAuditRequest, context: Context) -> pb.VerifyAuditResponse:
        found = await self._store.audit.verify()
        return pb.VerifyAuditResponse(
            intact=found.intact, entries=found.entries, broken_at=found.broken_at, head=found.head
        )
