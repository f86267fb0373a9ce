"""The assembler: golden bytes, checked against RFC 9669 and another assembler once, and what it refuses."""

import pytest

from agent.kernel import ebpf_code as asm
from agent.kernel.ebpf import Attach, MapKind
from agent.kernel.ebpf_code import (
    BYTE,
    DOUBLE,
    HALF,
    R0,
    R1,
    R2,
    R3,
    R5,
    R6,
    R9,
    R10,
    WORD,
    Alu,
    Code,
    If,
    choose,
)
from agent.kernel.ebpf_guard import guard_code, guard_maps
from agent.kernel.settings import KernelSettings
from agent.kernel.tables import emergency_chains

MAPS = {"m": 0x11}
GOLDEN = [
    (lambda c: c.move(R6, R1), "bf16000000000000"),
    (lambda c: c.move(R0, -1), "b7000000ffffffff"),
    (lambda c: c.add(R2, -20), "07020000ecffffff"),
    (lambda c: c.math(Alu.SUB, R2, R9), "1f92000000000000"),
    (lambda c: c.mask(R2, 0xDFDFDFDF), "54020000dfdfdfdf"),
    (lambda c: c.constant(R3, 0x1122334455667788), "18030000887766550000000044332211"),
    (lambda c: c.swap16(R2), "dc02000010000000"),
    (lambda c: c.load(WORD, R1, R6, 76), "61614c0000000000"),
    (lambda c: c.load(HALF, R2, R6, 12), "69620c0000000000"),
    (lambda c: c.load(BYTE, R2, R6, -1), "7162ffff00000000"),
    (lambda c: c.store(DOUBLE, R10, -8, R2), "7b2af8ff00000000"),
    (lambda c: c.store(WORD, R10, -20, 128), "620aecff80000000"),
    (lambda c: c.count(R0, 8, R1), "db10080000000000"),
    (lambda c: c.call(1), "8500000001000000"),
    (lambda c: c.map(R1, "m"), "18110000110000000000000000000000"),
    (lambda c: c.map_value(R1, "m", 4), "18210000110000000000000004000000"),
    (lambda c: c.exit(), "9500000000000000"),
]
JUMPS = [
    (lambda c: c.jump("end"), "0500010000000000"),
    (lambda c: c.jump_if(If.EQ, R2, 0xFFFFFFFF, "end"), "16020100ffffffff"),
    (lambda c: c.jump_if(If.ANY_BIT, R2, 3, "end"), "4602010003000000"),
    (lambda c: c.jump_if(If.GT, R2, R5, "end", wide=True), "2d52010000000000"),
    (lambda c: c.jump_if(If.LE, R2, 9, "end"), "b602010009000000"),
]


@pytest.mark.parametrize(("write", "expected"), GOLDEN, ids=[hexes for _, hexes in GOLDEN])
def test_instructions_are_those_of_the_standard(write, expected) -> None:  # type: ignore[no-untyped-def]
    code = Code()
    write(code)
    assert code.assemble(MAPS).hex() == expected
    assert len(code) == len(expected) // 16


@pytest.mark.parametrize(("write", "expected"), JUMPS, ids=[hexes for _, hexes in JUMPS])
def test_jumps_count_from_the_next_instruction(write, expected) -> None:  # type: ignore[no-untyped-def]
    code = Code()
    code.jump_if(If.EQ, R1, 0, "here")
    write(code)
    code.label("here")
    code.move(R0, 0)
    code.label("end")
    code.exit()
    assert code.assemble({})[8:16].hex() == expected


def test_what_nothing_comes_to_is_left_out() -> None:
    code = Code()
    code.move(R0, 0)
    code.jump("end")
    code.move(R0, 1)
    code.label("nobody")
    code.jump("nowhere")
    code.label("end")
    code.exit()
    assert code.assemble({}).hex() == "b70000000000000005000000000000009500000000000000"


def test_what_no_instruction_can_say_is_refused() -> None:
    def code(*lines) -> Code:  # type: ignore[no-untyped-def]
        made = Code()
        for line in lines:
            line(made)
        return made

    for lines, words in (
        ([lambda c: c.jump("x")], "no label 'x'"),
        ([lambda c: c.map(R1, "x")], "no map 'x'"),
        ([lambda c: c.call(1)] * (asm.MAX_INSTRUCTIONS + 1), "longer than"),
        ([lambda c: c.jump_if(If.EQ, R1, 0, "x"), *[lambda c: c.call(1)] * 0x8000], "longer than"),
    ):
        with pytest.raises(ValueError, match=words):
            code(*lines).assemble({})
    for line, words in (
        (lambda c: c.move(R0, 1 << 31), "32 bits"),
        (lambda c: c.jump_if(If.EQ, R0, 1 << 32, "x"), "32 bits"),
        (lambda c: c.jump_if(If.EQ, R0, 1 << 31, "x", wide=True), "sign"),
        (lambda c: c.constant(R0, 1 << 64), "64 bits"),
        (lambda c: c.load(WORD, R0, R1, 0x8000), "offset"),
        (lambda c: (c.label("a"), c.label("a")), "twice"),
        (lambda c: (c.label("a"), c.jump("a")), "backwards"),
    ):
        with pytest.raises(ValueError, match=words):
            code(line)


def test_a_choice_among_64_numbers_takes_at_most_eight_comparisons() -> None:
    code = Code()
    choose(code, R1, range(5060, 5124), "yes", "no", "port")
    for name in ("yes", "no"):
        code.label(name)
        code.exit()
    program = code.assemble({})
    for value in (0, 5059, 5060, 5091, 5123, 5124, 65535):
        at, compared = 0, 0
        while program[at] != 0x95:
            kind, offset = program[at], int.from_bytes(program[at + 2 : at + 4], "little")
            constant = int.from_bytes(program[at + 4 : at + 8], "little")
            holds = {0x16: value == constant, 0x36: value >= constant, 0x05: True}[kind]
            compared += kind != 0x05
            at += 8 * (1 + holds * offset)
        assert (at == len(program) - 16) == (5060 <= value < 5124)
        assert compared <= 8


@pytest.mark.parametrize("way", list(Attach))
def test_the_same_settings_make_the_same_program_with_no_more_maps_than_it_uses(way: Attach) -> None:
    settings = KernelSettings(flood_rate=100, exempt=("192.0.2.1",))
    maps = {spec.name: number for number, spec in enumerate(guard_maps(settings), start=1)}
    first, second = (guard_code(settings, way, bytes(6)).assemble(maps) for _ in range(2))
    assert first == second
    used = {int.from_bytes(first[n + 4 : n + 8], "little") for n in range(0, len(first), 8) if first[n] == 0x18}
    assert set(maps.values()) <= used
    assert len(first) // 8 < 500
    assert len({spec.kind for spec in guard_maps(settings)}) == len(MapKind)


def test_the_longest_settings_still_fit() -> None:
    numbers = tuple(f"{n:012}" for n in range(20))
    settings = KernelSettings(ports=tuple(range(1, 65)), flood_rate=1, exempt=("::/0",), emergency_numbers=numbers)
    assert len(guard_code(settings, Attach.XDP, bytes(range(6)))) < asm.MAX_INSTRUCTIONS
    assert len(emergency_chains(numbers)) > 1
