"""What was computed lately, so that it is not computed again. Knows nothing of what it keeps."""

from typing import Final, Generic, TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

DEFAULT_CAPACITY: Final = 4096


class Recent(Generic[_Key, _Value]):
    """A cache of at most `capacity` values; one that was used since half of it was filled anew is still there.

    Two generations: when the young one is full, it becomes the old one, and the old one is forgotten. A get or put
    is one or two look-ups, whoever fills it, and may run in several threads: at worst a value is computed twice.
    """

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self._half = max(1, capacity // 2)
        self._young: dict[_Key, _Value] = {}
        self._old: dict[_Key, _Value] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: _Key) -> _Value | None:
        """The value, or None."""
        value = self._young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: _Key, value: _Value) -> None:
        """Keep a value that is not None."""
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[key] = value
