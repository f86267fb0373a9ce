"""Questions and answers about shares of the fleet's limits, as messages of the contract and as our own types."""

from typing import Final

from agent.control.quota import Granted, QuotaAsk, QuotaReply
from agent.policy.leases import Partition, Safe
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.policy.v1 import policy_pb2

PARTITIONS: Final = {
    policy_pb2.PARTITION_SAFE: Partition.SAFE,
    policy_pb2.PARTITION_HOLD: Partition.HOLD,
    policy_pb2.PARTITION_OPEN: Partition.OPEN,
}
NUMBERS: Final = {partition: number for number, partition in PARTITIONS.items()}


def ask_to(ask: QuotaAsk) -> pb.StreamQuotaRequest:
    """What the agent says."""
    message = pb.StreamQuotaRequest(sequence=ask.sequence, applied_sequence=ask.applied)
    for demand in ask.demands:
        message.demands.add(
            limit=demand.limit,
            key=demand.key,
            demand=demand.rate,
            rate=demand.of.rate,
            burst=demand.of.burst,
            partition=NUMBERS[demand.of.partition],
            safe_rate=demand.safe.rate,
            safe_burst=demand.safe.burst,
        )
    return message


def reply_from(message: pb.StreamQuotaResponse) -> QuotaReply:
    """What the controller says. A partition that this version does not know is taken as the strictest."""
    grants = (
        Granted(
            lease.limit,
            lease.key,
            lease.rate,
            lease.burst,
            lease.life.seconds + lease.life.nanos / 1e9,
            Safe(lease.safe_rate, lease.safe_burst, PARTITIONS.get(lease.partition, Partition.SAFE)),
        )
        for lease in message.leases
    )
    return QuotaReply(message.sequence, message.limit_epoch, tuple(grants))
