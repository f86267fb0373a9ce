"""Questions and answers about shares, as messages of sbcedge.control.v1 and as our own types.

What an agent says is bounded here; what is out of bounds is Invalid, with the field.
"""

from math import isfinite
from typing import Final

from controller.errors import Invalid
from controller.model import Partition
from controller.quota.model import LIFE, Amount, Answer, Demand, Grant, Question, Rate
from controller.quota.quotas import DEMANDS_MAX
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.policy.v1 import policy_pb2 as policy_pb

NAME_MAX: Final = 128
RATE_MAX: Final = 1e9
SEQUENCE_MAX: Final = (1 << 63) - 1

PARTITIONS: Final = {
    policy_pb.PARTITION_UNSPECIFIED: Partition.SAFE,
    policy_pb.PARTITION_SAFE: Partition.SAFE,
    policy_pb.PARTITION_HOLD: Partition.HOLD,
    policy_pb.PARTITION_OPEN: Partition.OPEN,
}
NUMBERS: Final = {
    Partition.SAFE: policy_pb.PARTITION_SAFE,
    Partition.HOLD: policy_pb.PARTITION_HOLD,
    Partition.OPEN: policy_pb.PARTITION_OPEN,
}


def question_from(message: pb.StreamQuotaRequest, agent: str) -> Question:
    """Raises Invalid."""
    if not 0 < len(agent) <= NAME_MAX:
        raise Invalid("agent_id", "must say for which agent this is")
    if not message.applied_sequence <= message.sequence <= SEQUENCE_MAX:
        raise Invalid("applied_sequence", "is of a question that was not asked yet")
    if len(message.demands) > DEMANDS_MAX:
        raise Invalid("demands", f"are more than {DEMANDS_MAX}")
    demands = tuple(_demand(demand, f"demands[{n}]") for n, demand in enumerate(message.demands))
    if len({(demand.limit, demand.key) for demand in demands}) < len(demands):
        raise Invalid("demands", "name a key twice")
    return Question(agent, message.sequence, message.applied_sequence, demands)


def question_to(question: Question) -> pb.StreamQuotaRequest:
    """As another controller gets it."""
    return pb.StreamQuotaRequest(
        sequence=question.sequence,
        applied_sequence=question.applied,
        agent_id=question.agent,
        demands=[
            pb.QuotaDemand(
                limit=demand.limit,
                key=demand.key,
                demand=demand.rate,
                rate=demand.policy.rate,
                burst=demand.policy.burst,
                partition=NUMBERS[demand.policy.partition],
                safe_rate=demand.safe.rate,
                safe_burst=demand.safe.burst,
            )
            for demand in question.demands
        ],
    )


def answer_to(answer: Answer) -> pb.StreamQuotaResponse:
    """As agents get it."""
    message = pb.StreamQuotaResponse(sequence=answer.sequence, limit_epoch=answer.epoch, agent_id=answer.agent)
    for grant in answer.grants:
        lease = message.leases.add(
            limit=grant.limit,
            key=grant.key,
            rate=grant.share.rate,
            burst=grant.share.burst,
            safe_rate=grant.safe.rate,
            safe_burst=grant.safe.burst,
            partition=NUMBERS[grant.partition],
        )
        lease.life.FromNanoseconds(int(LIFE * 1e9))
    return message


def answer_from(message: pb.StreamQuotaResponse) -> Answer:
    """What another controller says."""
    grants = (
        Grant(
            lease.limit,
            lease.key,
            Amount(lease.rate, lease.burst),
            Amount(lease.safe_rate, lease.safe_burst),
            PARTITIONS.get(lease.partition, Partition.SAFE),
        )
        for lease in message.leases
    )
    return Answer(message.agent_id, message.sequence, message.limit_epoch, tuple(grants))


def _demand(message: pb.QuotaDemand, field: str) -> Demand:
    for name in ("limit", "key"):
        if not 0 < len(getattr(message, name)) <= NAME_MAX:
            raise Invalid(f"{field}.{name}", f"must have 1 to {NAME_MAX} characters")
    if not 0 < message.rate <= RATE_MAX:
        raise Invalid(f"{field}.rate", f"must be above 0 and at most {RATE_MAX:g}")
    for name in ("demand", "burst", "safe_rate", "safe_burst"):
        value = getattr(message, name)
        if not (isfinite(value) and 0 <= value <= RATE_MAX):
            raise Invalid(f"{field}.{name}", f"must be from 0 to {RATE_MAX:g}")
    partition = PARTITIONS.get(message.partition)
    if partition is None:
        raise Invalid(f"{field}.partition", f"has the value {message.partition}, which this version does not know")
    policy = Rate(message.rate, message.burst, partition)
    safe = Amount(message.safe_rate, message.safe_burst)
    return Demand(message.limit, message.key, message.demand, policy, safe)
