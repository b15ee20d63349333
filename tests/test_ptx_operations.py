"""What the PTX machine computes (helpers/ptx/operations.h), against Python's and PyTorch's arithmetic."""

import math
import random

import pytest
import torch
from helpers.ptx_machine import load_machine


@pytest.fixture(scope="session")
def compute(kernels_folder):
    machine = load_machine(kernels_folder)

    def compute(name: str, a: int, b: int = 0, c: int = 0) -> int:
        number = machine.number_of(name.encode())
        assert number >= 0, name
        return machine.compute(number, a, b, c)

    return compute


def patterns(bits: int, count: int = 400) -> list[int]:
    """Random ones, and those at the ends."""
    draw = random.Random(bits)
    ends = [0, 1, 2, 2**bits - 1, 2**bits - 2, 2 ** (bits - 1), 2 ** (bits - 1) - 1, 31, 32, 33, 63, 64]
    return [value % 2**bits for value in ends] + [draw.getrandbits(draw.randint(1, bits)) for _ in range(count)]


def signed(value: int, bits: int) -> int:
    return value - 2**bits if value >> (bits - 1) else value


def truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32", "s64", "u64"])
def test_integers(compute, kind):
    bits, number = int(kind[1:]), (lambda v: signed(v, int(kind[1:]))) if kind[0] == "s" else (lambda v: v)
    a_s, b_s, c_s = (random.Random(seed).sample(patterns(bits), 300) for seed in (1, 2, 3))
    for x, y, z in zip(a_s, b_s, c_s, strict=True):
        a, b, c = number(x), number(y), number(z)
        shift = y & 0xFFFFFFFF
        expected = {
            "add": a + b,
            "sub": a - b,
            "mul.lo": a * b,
            "mad.lo": a * b + c,
            "mul.hi": a * b >> bits,
            "neg": -a,
            "abs": abs(a),
            "min": min(a, b),
            "max": max(a, b),
            "shr": a >> min(shift, 2 * bits),
            **({"div": truncated(a, b), "rem": a - b * truncated(a, b)} if b else {}),
        }
        for name, value in expected.items():
            assert compute(f"{name}.{kind}", x, y, z) == value % 2**bits, (name, a, b, c)
        for name, value in {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}.items():
            assert compute(f"setp.{name}.{kind}", x, y) == value, (name, a, b)
        if bits < 64:
            assert compute(f"mul.wide.{kind}", x, y) == a * b % 4**bits, (a, b)
            assert compute(f"mad.wide.{kind}", x, y, z) == (a * b + z) % 4**bits, (a, b, c)
        untyped = {
            "and": x & y,
            "or": x | y,
            "xor": x ^ y,
            "not": ~x,
            "shl": x << min(shift, bits),
            "shr": x >> min(shift, bits),
        }
        for name, value in untyped.items():
            assert compute(f"{name}.b{bits}", x, y) == value % 2**bits, (name, x, y)
        assert compute(f"selp.{kind}", x, y, z & 1) == (x if z & 1 else y)


def test_dot_products_of_halves_and_bytes(compute):
    for a, b, c in zip(*(random.Random(seed).sample(patterns(32), 200) for seed in (1, 2, 3)), strict=True):
        expected = (a & 0xFFFF) * (b & 0xFF) + (a >> 16) * (b >> 8 & 0xFF) + c
        assert compute("dp2a.lo.u32.u32", a, b, c) == expected % 2**32


def test_conversions_of_halves_are_those_of_pytorch(compute):
    halves = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    found = floats([compute("cvt.f32.f16", number) for number in range(2**16)])
    torch.testing.assert_close(found, halves.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype,name", [(torch.float16, "cvt.rn.f16.f32"), (torch.bfloat16, "cvt.rn.bf16.f32")])
def test_conversions_to_16_bits_are_those_of_pytorch(compute, dtype, name):
    draw = random.Random(1)
    ties = [draw.getrandbits(16) << 16 | low for low in (0x8000, 0x7FFF, 0x8001) for _ in range(2000)]
    ends = [
        0x7F7FFFFF,
        0x7F7F8000,
        0x7F800000,
        0xFF800000,
        1,
        0x80000001,
        0x477FF000,
        0x477FEFFF,
        0x33000000,
        0x33000001,
    ]
    bits = [*patterns(32, 20000), *ties, *ends]
    found = torch.tensor([signed(compute(name, number), 16) for number in bits], dtype=torch.int16).view(dtype)
    torch.testing.assert_close(found, floats(bits).to(dtype), rtol=0, atol=0, equal_nan=True)


def test_what_is_not_normal_is_zero_with_ftz(compute):
    smallest = 0x00800000  # 2^-126
    for name, a, b, c, plain in (
        ("add{}.f32", smallest - 1, 0, 0, smallest - 1),
        ("mul{}.f32", smallest, 0x3F000000, 0, smallest // 2),
        ("fma.rn{}.f32", smallest, 0x3F000000, 0, smallest // 2),
        ("sub{}.f32", 0, smallest // 4, 0, 2**31 + smallest // 4),
    ):
        assert compute(name.format(""), a, b, c) == plain, name
        assert compute(name.format(".ftz"), a, b, c) in (0, 2**31), name
    assert compute("setp.gt.f32", 1, 0) == 1 and compute("setp.gt.ftz.f32", 1, 0) == 0


def test_comparisons_with_what_is_not_a_number(compute):
    nan, one = 0x7FC00000, 0x3F800000
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        assert compute(f"setp.{name}.f32", nan, one) == 0 and compute(f"setp.{name}u.f32", nan, one) == 1, name
    assert compute("setp.nan.f32", nan, one) == 1 and compute("setp.num.f32", nan, one) == 0
    assert math.isnan(floats([compute("add.f32", nan, one)]))


def floats(bits: list[int]) -> torch.Tensor:
    return torch.tensor([signed(number, 32) for number in bits], dtype=torch.int32).view(torch.float32)
