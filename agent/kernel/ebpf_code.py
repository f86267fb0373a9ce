"""Extended BPF: an assembler for the few instructions that our programs are made of.

Pure; knows instruction encoding (linux/bpf.h, RFC 9669), opens nothing. Programs are written with labels and named
maps; `assemble` gives the bytes that the kernel takes once the maps are there. All jumps go forward: what cannot loop
ends. And so it is known at each place whether anything comes there; what nothing comes to is left out, since the kernel
takes no such program. For every kernel since 5.2, the first that lets instructions name the value of an array.
"""

import struct
import sys
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Final, NamedTuple


class Reg(IntEnum):
    """R0 is what a call and the program return; R1 to R5 are arguments, lost in a call; R6 to R9 stay; R10 is the end
    of the stack, 512 bytes, and cannot be written."""

    R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Reg


class Size(IntEnum):
    """How much is loaded or stored; the numbers of RFC 9669, 5."""

    WORD, HALF, BYTE, DOUBLE = 0x00, 0x08, 0x10, 0x18


WORD, HALF, BYTE, DOUBLE = Size


class Alu(IntEnum):
    """Arithmetic on 64 bits."""

    ADD, SUB, AND, SHIFT_LEFT, MOVE = 0x00, 0x10, 0x50, 0x60, 0xB0


class If(IntEnum):
    """Comparisons, all of them unsigned."""

    EQ, GT, GE, ANY_BIT, NE, LT, LE = 0x10, 0x20, 0x30, 0x40, 0x50, 0xA0, 0xB0


# Instruction classes and modes.
_LD, _LDX, _ST, _STX, _ALU, _JUMP, _JUMP32, _ALU64 = range(8)
_IMMEDIATE, _MEMORY, _ATOMIC = 0x00, 0x60, 0xC0
_REGISTER: Final = 0x08  # the source is a register
_ALWAYS, _CALL, _EXIT, _SWAP = 0x00, 0x80, 0x90, 0xD0
_TO_BIG_ENDIAN: Final = 0x08
_MAP, _MAP_VALUE = 1, 2  # BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE

MAX_INSTRUCTIONS: Final = 4096
"""BPF_MAXINSNS: what a kernel takes of somebody without CAP_BPF, and ten times what we need."""

NATIVE: Final = sys.byteorder == "little"
"""Whether programs of this assembler run on this machine. All that we are packaged for are little-endian."""

_INSTRUCTION: Final = struct.Struct("<BBhi")
_MAX_DISTANCE: Final = 0x7FFF


class _Line(NamedTuple):
    """One instruction; `label`: where it jumps, `map`: whose descriptor becomes its constant."""

    code: int
    target: int = 0
    source: int = 0
    offset: int = 0
    constant: int = 0
    label: str = ""
    map: str = ""
    high: int = 0


class Code:
    """A program that grows line by line. Raises ValueError for what no instruction can say."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []
        self._labels: dict[str, int] = {}
        self._slots = 0  # instructions of 8 bytes
        self._wanted: set[str] = set()  # labels that something jumps to
        self._reached = True  # whether anything comes to the next instruction

    def __len__(self) -> int:
        """Instructions, as the kernel counts them."""
        return self._slots

    # ---- one method for each kind of instruction

    def move(self, target: Reg, value: Reg | int) -> None:
        """target = value"""
        self.math(Alu.MOVE, target, value)

    def add(self, target: Reg, value: Reg | int) -> None:
        """target += value"""
        self.math(Alu.ADD, target, value)

    def math(self, operation: Alu, target: Reg, value: Reg | int) -> None:
        """target = target `operation` value; a constant has 32 bits and a sign."""
        if isinstance(value, Reg):
            self._put(_Line(_ALU64 | operation | _REGISTER, target, value))
        else:
            self._put(_Line(_ALU64 | operation, target, constant=_signed(value)))

    def mask(self, target: Reg, bits: int) -> None:
        """target = the lower 32 bits of target, those of `bits` only."""
        self._put(_Line(_ALU | Alu.AND, target, constant=_wrapped(bits)))

    def constant(self, target: Reg, value: int) -> None:
        """target = a constant of up to 64 bits, in two instructions."""
        if not 0 <= value < 1 << 64:
            raise ValueError(f"{value} has no 64 bits")
        low, high = (_wrapped(half) for half in (value & 0xFFFFFFFF, value >> 32))
        self._put(_Line(_LD | _IMMEDIATE | DOUBLE, target, constant=low, high=high), 2)

    def swap16(self, target: Reg) -> None:
        """Two bytes of the network as a number."""
        self._put(_Line(_ALU | _SWAP | _TO_BIG_ENDIAN, target, constant=16))

    def load(self, size: Size, target: Reg, base: Reg, offset: int) -> None:
        """target = what is at base + offset, without a sign."""
        self._put(_Line(_LDX | _MEMORY | size, target, base, _near(offset)))

    def store(self, size: Size, base: Reg, offset: int, value: Reg | int) -> None:
        """What is at base + offset becomes the register, or a constant of 32 bits that is extended with its sign."""
        if isinstance(value, Reg):
            self._put(_Line(_STX | _MEMORY | size, base, value, _near(offset)))
        else:
            self._put(_Line(_ST | _MEMORY | size, base, 0, _near(offset), _signed(value)))

    def count(self, base: Reg, offset: int, value: Reg) -> None:
        """Add a register to the 8 bytes at base + offset, whatever other processors do there."""
        self._put(_Line(_STX | _ATOMIC | DOUBLE, base, value, _near(offset)))

    def jump(self, label: str) -> None:
        """Go on at the label."""
        self._put(_Line(_JUMP | _ALWAYS, label=label))
        self._reached = False

    def jump_if(self, test: If, left: Reg, right: Reg | int, label: str, *, wide: bool = False) -> None:
        """Go on at the label if that is so of the lower 32 bits, or of all 64 (`wide`); pointers are wide."""
        kind = (_JUMP if wide else _JUMP32) | test
        if isinstance(right, Reg):
            self._put(_Line(kind | _REGISTER, left, right, label=label))
        else:
            if wide and not 0 <= right < 1 << 31:
                raise ValueError(f"{right:#x} would get a sign in a comparison of 64 bits")
            self._put(_Line(kind, left, constant=_wrapped(right), label=label))

    def call(self, helper: int) -> None:
        """R0 = a helper of the kernel, which takes R1 to R5."""
        self._put(_Line(_JUMP | _CALL, constant=helper))

    def exit(self) -> None:
        """Return R0."""
        self._put(_Line(_JUMP | _EXIT))
        self._reached = False

    def label(self, name: str) -> None:
        """The place of the next instruction."""
        if name in self._labels:
            raise ValueError(f"label {name!r} is there twice")
        self._labels[name] = self._slots
        self._reached = self._reached or name in self._wanted

    def map(self, target: Reg, name: str) -> None:
        """target = a map, for a helper."""
        self._put(_Line(_LD | _IMMEDIATE | DOUBLE, target, _MAP, map=name), 2)

    def map_value(self, target: Reg, name: str, offset: int = 0) -> None:
        """target = where the only value of an array is."""
        self._put(_Line(_LD | _IMMEDIATE | DOUBLE, target, _MAP_VALUE, map=name, high=offset), 2)

    def _put(self, line: _Line, slots: int = 1) -> None:
        if not self._reached:
            return
        if line.label in self._labels:
            raise ValueError(f"a jump backwards to {line.label!r}")
        self._wanted.add(line.label)
        self._lines.append(line)
        self._slots += slots

    # ---- all of it

    def assemble(self, maps: Mapping[str, int]) -> bytes:
        """The program as the kernel takes it, with the descriptors of its maps. Raises ValueError for a label or map
        that is not there, a jump backwards, and a program that is too long."""
        if self._slots > MAX_INSTRUCTIONS:
            raise ValueError(f"a program of {self._slots} instructions is longer than {MAX_INSTRUCTIONS}")
        out: list[bytes] = []
        at = 0
        for line in self._lines:
            at += 1
            offset = self._distance(line.label, at) if line.label else line.offset
            constant = _descriptor(line.map, maps) if line.map else line.constant
            out.append(_INSTRUCTION.pack(line.code, line.target | line.source << 4, offset, constant))
            if line.code == _LD | _IMMEDIATE | DOUBLE:
                out.append(_INSTRUCTION.pack(0, 0, 0, line.high))
                at += 1
        return b"".join(out)

    def _distance(self, label: str, following: int) -> int:
        if label not in self._labels:
            raise ValueError(f"no label {label!r}")
        distance = self._labels[label] - following
        if distance > _MAX_DISTANCE:
            raise ValueError(f"a jump of {distance} instructions to {label!r}")
        return distance


def choose(code: Code, value: Reg, numbers: Iterable[int], found: str, otherwise: str, prefix: str) -> None:
    """Jump to `found` if the value is one of the numbers, else to `otherwise`: a tree, so that 64 numbers cost seven
    comparisons. Labels that begin with `prefix` are its own."""
    _branch(code, value, sorted(set(numbers)), found, otherwise, prefix)


def _branch(code: Code, value: Reg, numbers: list[int], found: str, otherwise: str, prefix: str) -> None:
    if len(numbers) <= 3:  # one after the other
        for number in numbers:
            code.jump_if(If.EQ, value, number, found)
        code.jump(otherwise)
        return
    middle = len(numbers) // 2
    upper = f"{prefix}.{numbers[middle]}"
    code.jump_if(If.GE, value, numbers[middle], upper)
    _branch(code, value, numbers[:middle], found, otherwise, prefix)
    code.label(upper)
    _branch(code, value, numbers[middle:], found, otherwise, prefix)


def _descriptor(name: str, maps: Mapping[str, int]) -> int:
    if name not in maps:
        raise ValueError(f"no map {name!r}")
    return maps[name]


def _near(offset: int) -> int:
    if not -0x8000 <= offset <= 0x7FFF:
        raise ValueError(f"an offset of {offset}")
    return offset


def _signed(value: int) -> int:
    if not -(1 << 31) <= value < 1 << 31:
        raise ValueError(f"{value:#x} has no 32 bits with a sign")
    return value


def _wrapped(value: int) -> int:
    """32 bits without a sign as the field wants them."""
    if not 0 <= value < 1 << 32:
        raise ValueError(f"{value:#x} has no 32 bits")
    return value - (1 << 32) if value >= 1 << 31 else value
