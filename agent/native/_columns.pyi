from typing import Literal, TypeAlias, final

from typing_extensions import Buffer

Kind: TypeAlias = Literal["string", "bool", "uint64", "time", "list", "struct"]
Field: TypeAlias = tuple[str, Kind, tuple[Field, ...]]
Taken: TypeAlias = tuple[int, int, Buffer | None, Buffer | None, Buffer | None, tuple[Taken, ...]]

@final
class Columns:
    def __init__(self, fields: tuple[Field, ...]) -> None: ...
    def add(self, text: bytes, count: int, /) -> bool: ...
    def take(self) -> Taken: ...
