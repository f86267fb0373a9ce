"""Messages about records as our own types, and back: sbcedge.report.v1, and the questions of sbcedge.fleet.v1."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from agent.records.manifest import DroppedRange as Lost
from controller.archive.query import LIMIT, Query
from controller.errors import Invalid
from controller.ingest.upload import Upload
from controller.services.wire import epoch
from sbcedge.fleet.v1 import fleet_pb2
from sbcedge.report.v1 import report_pb2 as pb


def lost_from(message: pb.DroppedRange, spool_epoch: int, when: float) -> Lost:
    """Whether it can be is judged where its order is."""
    return Lost(
        spool_epoch,
        message.first_sequence,
        message.last_sequence,
        message.kind,
        message.count,
        message.reason,
        when,
    )


def progress_to(upload: Upload, retry_after: float = 0.0) -> pb.UploadRecordsResponse:
    """How far it is. With `retry_after` in seconds nothing more is taken."""
    answer = pb.UploadRecordsResponse(
        spool_epoch=upload.order.spool_epoch, committed_through=upload.committed, window=upload.window
    )
    if retry_after > 0:
        answer.retry_after.CopyFrom(duration(retry_after))
    return answer


def duration(seconds: float) -> Duration:
    """Whole milliseconds."""
    made = Duration()
    made.FromMilliseconds(round(seconds * 1000))
    return made


def query_from(request: fleet_pb2.QueryRecordsRequest) -> Query:
    """Raises Invalid with the field."""
    since = _moment(getattr(request, "from"), "from") if request.HasField("from") else None
    until = _moment(request.until, "until") if request.HasField("until") else None
    return Query(
        since,
        until,
        request.agent_id,
        request.calling,
        request.called,
        request.call_id,
        request.trunk,
        request.rule,
        request.refused_only,
        request.limit or LIMIT,
    )


def _moment(stamp: Timestamp, field: str) -> float:
    try:
        stamp.ToMicroseconds()
    except ValueError as error:
        raise Invalid(field, f"is no time: {error}") from None
    return epoch(stamp)
