"""The policy as people write it (TOML) and as protobuf: one walk over the message's own description.

Knows field names and types, and no rule: a new field in the contract is a new key here, without a line of code.
Must not know what a value means; that, and every default, is `agent.policy.compile`.

A field is a key, a message is a table, a repeated message an array of tables, an enum its short name in lower
case ("shadow" for MODE_SHADOW). Every error is a ConfigError with the path of its value ("limits[2].rate"), and all
of them come at once, as ConfigErrors.
"""

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from agent.documents import finite, header, kind, may_be_quoted, quoted, raise_all, read_toml, suggestion, under
from agent.model import ConfigError, ConfigErrors
from agent.policy import toml
from sbcedge.policy.v1 import policy_pb2

INTEGERS: Final = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}


def from_toml(text: str) -> policy_pb2.Policy:
    """The policy that this TOML document describes. Raises ConfigErrors; a syntax error names line and column."""
    return from_dict(read_toml(text))


def from_dict(table: Mapping[str, Any]) -> policy_pb2.Policy:
    """The policy of a table as `tomllib` gives it. Raises ConfigErrors."""
    errors: list[ConfigError] = []
    policy = policy_pb2.Policy()
    _Reader(errors).read(policy, table, "")
    raise_all(errors)
    return policy


def to_toml(message: policy_pb2.Policy) -> str:
    """A TOML document that `from_toml` reads back to the same message. Raises ConfigErrors where there is none.

    That is: numbers that are not finite, enum values and fields that this version does not know.
    """
    return toml.dumps(to_dict(message))


def to_dict(message: policy_pb2.Policy) -> dict[str, toml.Value]:
    """The fields that are set, under their names, as TOML values. Raises ConfigErrors like `to_toml`."""
    errors: list[ConfigError] = []
    table = _Writer(errors).write(message, "")
    if errors:
        raise ConfigErrors(errors)
    return table


class _Reader:
    """Fills messages from tables, and gathers what is wrong."""

    def __init__(self, errors: list[ConfigError]) -> None:
        self._errors = errors

    def read(self, message: Message, table: Mapping[str, Any], path: str) -> None:
        fields = message.DESCRIPTOR.fields_by_name
        for key, value in table.items():
            where = under(path, key)
            field = cast("FieldDescriptor | None", fields.get(key))
            try:
                if field is None:
                    raise ConfigError(where, f"unknown key; {suggestion(key, tuple(fields))}")
                self._read_field(message, field, value, where)
            except ConfigError as error:
                self._errors.append(error)

    def _read_field(self, message: Message, field: FieldDescriptor, value: object, where: str) -> None:
        if field.message_type is None and field.is_repeated:
            getattr(message, field.name).extend(self._scalars(field, value, where))
        elif field.message_type is None:
            setattr(message, field.name, _scalar(field, value, where))
        elif field.is_repeated:
            for n, element in enumerate(_array_of_tables(value, where)):
                self._read_table(getattr(message, field.name).add(), element, f"{where}[{n}]")
        else:
            part = getattr(message, field.name)
            part.SetInParent()  # an empty table is there, too
            self._read_table(part, value, where)

    def _read_table(self, message: Message, value: object, where: str) -> None:
        if isinstance(value, list):
            raise ConfigError(where, f"there is only one: write [{header(where)}]")
        if not isinstance(value, Mapping):
            raise ConfigError(where, f"must be a table, not {kind(value)}")
        self.read(message, value, where)

    def _scalars(self, field: FieldDescriptor, value: object, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise ConfigError(where, f"must be an array of {_wanted(field)}s, not {kind(value)}: put it in [ ]")
        scalars = []
        for n, element in enumerate(value):
            try:
                scalars.append(_scalar(field, element, f"{where}[{n}]"))
            except ConfigError as error:
                self._errors.append(error)
        return scalars


class _Writer:
    """Turns messages into tables, and gathers what cannot be written."""

    def __init__(self, errors: list[ConfigError]) -> None:
        self._errors = errors

    def write(self, message: Message, path: str) -> dict[str, toml.Value]:
        if len(UnknownFieldSet(message)):
            self._errors.append(ConfigError(path, "holds fields that this version does not know"))
        table: dict[str, toml.Value] = {}
        for field, value in message.ListFields():
            where = under(path, field.name)
            if field.is_repeated:
                table[field.name] = [self._value(field, v, f"{where}[{n}]") for n, v in enumerate(value)]
            else:
                table[field.name] = self._value(field, value, where)
        return table

    def _value(self, field: FieldDescriptor, value: Any, where: str) -> toml.Value:
        if field.message_type is not None:
            return self.write(value, where)
        if field.enum_type is not None:
            name = _enum_names(field.enum_type).get(value)
            if name is None:
                self._errors.append(ConfigError(where, f"has the value {value}, which this version does not know"))
            return name or ""
        if isinstance(value, float) and not isfinite(value):
            self._errors.append(ConfigError(where, "must be a finite number"))
        return cast("toml.Value", value)


def _scalar(field: FieldDescriptor, value: object, where: str) -> bool | int | float | str:
    """The value, if the field can hold it as it is; nothing is converted but an integer to a float."""
    if field.enum_type is not None:
        return _enum(field.enum_type, value, where)
    if field.type in INTEGERS:
        return _integer(field, value, where)
    wanted: type = {FieldDescriptor.TYPE_BOOL: bool, FieldDescriptor.TYPE_STRING: str}.get(field.type, float)
    if wanted is float:
        return _float(field, value, where)
    if not isinstance(value, wanted):
        raise _wrong_type(field, value, where)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigError(where, "is not Unicode text") from None
    return cast("bool | str", value)


def _enum(enum: EnumDescriptor, value: object, where: str) -> int:
    names = {name: number for number, name in _enum_names(enum).items()}
    if not isinstance(value, str):
        raise ConfigError(where, f"must be one of {', '.join(map(quoted, names))}, not {kind(value)}")
    if value not in names:
        raise ConfigError(where, f"{quoted(value)} is not known; {suggestion(value, tuple(names))}")
    return names[value]


def _integer(field: FieldDescriptor, value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type(field, value, where)
    lowest, highest = INTEGERS[field.type]
    if not lowest <= value <= highest:
        raise ConfigError(where, f"must be from {lowest} to {highest}")
    return value


def _float(field: FieldDescriptor, value: object, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong_type(field, value, where)
    return finite(value, where)


def _array_of_tables(value: object, where: str) -> Sequence[object]:
    if isinstance(value, list):
        return value
    if isinstance(value, Mapping):
        raise ConfigError(where, f"there may be several: write [[{header(where)}]]")
    raise ConfigError(where, f"must be an array of tables, [[{header(where)}]], not {kind(value)}")


def _enum_names(enum: EnumDescriptor) -> dict[int, str]:
    """Number to short name: MODE_SHADOW of Mode is "shadow". Zero stands for an absent key and has none."""
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper() + "_"
    return {value.number: value.name.removeprefix(prefix).lower() for value in enum.values if value.number}


def _wanted(field: FieldDescriptor) -> str:
    if field.type == FieldDescriptor.TYPE_STRING:
        return "string"
    return "whole number" if field.type in INTEGERS else "number"


def _wrong_type(field: FieldDescriptor, value: object, where: str) -> ConfigError:
    if field.type == FieldDescriptor.TYPE_BOOL:
        return ConfigError(where, f"must be true or false, not {kind(value)}")
    hint = ": put it in quotes" if field.type == FieldDescriptor.TYPE_STRING and may_be_quoted(value) else ""
    return ConfigError(where, f"must be a {_wanted(field)}, not {kind(value)}{hint}")
