"""Integer arithmetic, logic, shifts and comparisons (PTX ISA, "Integer Arithmetic", "Logic and Shift")."""

import numpy as np

from ..integers import extract, high_product, leading_zeros, reversed_bits, shift_left, shift_right
from ..memory import EmulationError
from .isa import arithmetic

INTEGER = r"(?P<type>[us](?:16|32|64))"
LOGICAL = r"(?P<type>b(?:16|32|64)|pred)"
COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


@arithmetic.define(rf"add\.{INTEGER}")
def add(a, b):
    return a + b


@arithmetic.define(rf"sub\.{INTEGER}")
def subtract(a, b):
    return a - b


@arithmetic.define(rf"mul\.lo\.{INTEGER}")
def multiply(a, b):
    return a * b


@arithmetic.define(rf"mul\.hi\.{INTEGER}")
def multiply_high(a, b):
    return high_product(a, b)


@arithmetic.define(rf"mad\.lo\.{INTEGER}")
def multiply_add(a, b, c):
    return a * b + c


@arithmetic.define(rf"mad\.hi\.{INTEGER}")
def multiply_high_add(a, b, c):
    return high_product(a, b) + c


# the result of a wide product has twice the bits
for sign in "us":
    for size in (16, 32):
        double = f"{sign}{2 * size}"

        @arithmetic.define(rf"mul\.wide\.(?P<type>{sign}{size})", writes=double)
        def multiply_wide(a, b):
            wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
            return a.astype(wide) * b.astype(wide)

        @arithmetic.define(rf"mad\.wide\.(?P<type>{sign}{size})", reads=f"{{type}} {{type}} {double}", writes=double)
        def multiply_add_wide(a, b, c):
            return a.astype(c.dtype) * b.astype(c.dtype) + c


@arithmetic.define(rf"div\.{INTEGER}")
def divide(a, b):
    return _quotient(a, b)


@arithmetic.define(rf"rem\.{INTEGER}")
def remainder(a, b):
    return a - _quotient(a, b) * b


def _quotient(a, b):
    if (b == 0).any():
        raise EmulationError("division by zero, whose result a GPU leaves open")
    quotient = a // b
    # towards zero
    return quotient + ((quotient < 0) & (quotient * b != a)).astype(quotient.dtype)


@arithmetic.define(r"neg\.(?P<type>s(?:16|32|64))")
def negate(a):
    return -a


@arithmetic.define(r"abs\.(?P<type>s(?:16|32|64))")
def absolute(a):
    return np.abs(a)


@arithmetic.define(rf"min\.{INTEGER}")
def minimum(a, b):
    return np.minimum(a, b)


@arithmetic.define(rf"max\.{INTEGER}")
def maximum(a, b):
    return np.maximum(a, b)


@arithmetic.define(rf"and\.{LOGICAL}")
def bitwise_and(a, b):
    return a & b


@arithmetic.define(rf"or\.{LOGICAL}")
def bitwise_or(a, b):
    return a | b


@arithmetic.define(rf"xor\.{LOGICAL}")
def bitwise_xor(a, b):
    return a ^ b


@arithmetic.define(rf"not\.{LOGICAL}")
def bitwise_not(a):
    return ~a


@arithmetic.define(r"shl\.(?P<type>b(?:16|32|64))", reads="{type} u32")
def shl(a, amount):
    return shift_left(a, amount)


@arithmetic.define(r"shr\.(?P<type>[bus](?:16|32|64))", reads="{type} u32")
def shr(a, amount):
    return shift_right(a, amount)


@arithmetic.define(r"shf\.(?P<way>[lr])\.(?P<mode>wrap|clamp)\.(?P<type>b32)", reads="b32 b32 u32")
def funnel_shift(low, high, amount, *, way, mode):
    both = high.astype(np.uint64) << np.uint64(32) | low
    amount = (amount & np.uint32(31) if mode == "wrap" else np.minimum(amount, np.uint32(32))).astype(np.uint64)
    return ((both << amount) >> np.uint64(32) if way == "l" else both >> amount).astype(np.uint32)


@arithmetic.define(r"bfe\.(?P<type>[us](?:32|64))", reads="{type} u32 u32")
def bit_field_extract(a, position, length):
    return extract(a, position, length)


@arithmetic.define(r"bfi\.(?P<type>b(?:32|64))", reads="{type} {type} u32 u32")
def bit_field_insert(field, base, position, length):
    position, length = position & np.uint32(255), length & np.uint32(255)
    ones = np.full(1, -1, np.int64).astype(field.dtype)
    mask = shift_left(~shift_left(ones, length), position)
    return base & ~mask | shift_left(field, position) & mask


@arithmetic.define(r"lop3\.(?P<type>b32)", reads="b32 b32 b32 u32")
def logic_of_three(a, b, c, table):
    table = int(table[0])
    result = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), np.uint32)
    # bit 4 a + 2 b + c of the table is the result for these bits
    for i in range(8):
        if table >> i & 1:
            result |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    return result


@arithmetic.define(r"prmt\.(?P<type>b32)")
def permute_bytes(a, b, selector):
    both = b.astype(np.uint64) << np.uint64(32) | a
    result = np.zeros(np.broadcast_shapes(both.shape, selector.shape), np.uint32)
    for i in range(4):
        choice = selector >> np.uint32(4 * i) & np.uint32(15)
        byte = (both >> (choice & np.uint32(7)).astype(np.uint64) * np.uint64(8)).astype(np.uint32) & np.uint32(255)
        sign = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
        result |= np.where(choice & np.uint32(8), sign, byte) << np.uint32(8 * i)
    return result


@arithmetic.define(r"popc\.(?P<type>b(?:32|64))", writes="u32")
def population_count(a):
    return np.bitwise_count(a).astype(np.uint32)


@arithmetic.define(r"clz\.(?P<type>b(?:32|64))", writes="u32")
def count_leading_zeros(a):
    return leading_zeros(a)


@arithmetic.define(r"brev\.(?P<type>b(?:32|64))")
def bit_reverse(a):
    return reversed_bits(a)


@arithmetic.define(r"selp\.(?P<type>[bus](?:16|32|64)|f32|f64)", reads="{type} {type} pred")
def select(a, b, predicate):
    return np.where(predicate, a, b)


@arithmetic.define(
    r"setp\.(?P<compare>eq|ne|lt|le|gt|ge)\.(?P<type>[us](?:16|32|64))",
    r"setp\.(?P<compare>eq|ne)\.(?P<type>b(?:16|32|64))",
    writes="pred",
)
def compare(a, b, *, compare):
    return COMPARISONS[compare](a, b)


@arithmetic.define(
    r"setp\.(?P<compare>eq|ne|lt|le|gt|ge)\.(?P<combine>and|or|xor)\.(?P<type>[us](?:16|32|64))",
    r"setp\.(?P<compare>eq|ne)\.(?P<combine>and|or|xor)\.(?P<type>b(?:16|32|64))",
    reads="{type} {type} pred",
    writes="pred",
)
def compare_and_combine(a, b, predicate, *, compare, combine):
    return combined(COMPARISONS[compare](a, b), predicate, combine)


def combined(result, predicate, how):
    """A comparison's result with another predicate."""
    return {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[how](result, predicate)
