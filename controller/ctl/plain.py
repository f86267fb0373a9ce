"""Messages as plain values for --json: names as in the contract, times as RFC 3339, hashes as hexadecimal.

Unlike protobuf's own JSON, whole numbers are numbers, and a field that is not set is there, as null or empty.
"""

from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def plain(message: Message) -> dict[str, Any]:
    """Every field of it."""
    return {field.name: _field(message, cast("FieldDescriptor", field)) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            of = field.message_type.fields_by_name["value"]
            return {key: _value(of, value[key]) for key in sorted(value)}
        return [_value(field, item) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(field, value)


def _value(field: FieldDescriptor, value: Any) -> Any:
    match value:
        case Timestamp():
            return value.ToJsonString()
        case Duration():
            return value.seconds + value.nanos / 1e9
        case Message():
            return plain(value)
        case bytes():
            return value.hex()
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        name = known.name if known is not None else str(value)
        return name.split("_", 1)[1].lower() if "_" in name else name
    return value
