"""Integer operations in the lanes of a wave (AMD's ISA documents, "VOP1", "VOP2", "VOP3")."""

import numpy as np

from ..integers import extract, high_product, leading_zeros, reversed_bits
from .isa import vector

_LOW_24 = np.uint32(0xFFFFFF)
_FIVE_BITS = np.uint32(31)


@vector.define(r"v_mov_(?P<type>b16|b32|b64)", r"v_accvgpr_(?:read|write|mov)_(?P<type>b32)")
def move(a):
    return a


@vector.define(r"v_add(?:_nc)?_(?P<type>u32|u16|i32)")
def add(a, b):
    return a + b


@vector.define(r"v_sub(?:_nc)?_(?P<type>u32|u16|i32)", modifiers="clamp")
def subtract(a, b, *, modifiers):
    return np.where(a < b, a.dtype.type(0), a - b) if "clamp" in modifiers else a - b


@vector.define(r"v_subrev(?:_nc)?_(?P<type>u32)")
def subtract_reversed(a, b):
    return b - a


@vector.define(r"v_add3_(?P<type>u32)")
def add_three(a, b, c):
    return a + b + c


@vector.define(r"v_mul_lo_(?P<type>u32|u16)")
def multiply_low(a, b):
    return a * b


@vector.define(r"v_mul_hi_(?P<type>u32|i32)")
def multiply_high(a, b):
    return high_product(*np.broadcast_arrays(a, b))


@vector.define(r"v_mul_(?P<type>u32)_u24")
def multiply_24(a, b):
    return (a & _LOW_24) * (b & _LOW_24)


@vector.define(r"v_mad_(?P<type>u32)_u24")
def multiply_add_24(a, b, c):
    return (a & _LOW_24) * (b & _LOW_24) + c


def _signed_24(a):
    # the sign is bit 23
    return a << np.int32(8) >> np.int32(8)


@vector.define(r"v_mul_(?P<type>i32)_i24")
def multiply_signed_24(a, b):
    return _signed_24(a) * _signed_24(b)


@vector.define(r"v_mad_(?P<type>i32)_i24")
def multiply_add_signed_24(a, b, c):
    return _signed_24(a) * _signed_24(b) + c


@vector.define(r"v_(?P<name>min|max)_(?P<type>[ui](?:16|32))")
def extreme(a, b, *, name):
    return np.minimum(a, b) if name == "min" else np.maximum(a, b)


@vector.define(r"v_(?P<name>min3|max3|med3)_(?P<type>[ui]32)")
def extreme_of_three(a, b, c, *, name):
    low, high = np.minimum(a, b), np.maximum(a, b)
    if name == "med3":
        return np.maximum(low, np.minimum(high, c))
    return np.minimum(low, c) if name == "min3" else np.maximum(high, c)


@vector.define(r"v_(?P<name>and|or|xor|xnor)_(?P<type>b32|b16)")
def logic(a, b, *, name):
    return {"and": a & b, "or": a | b, "xor": a ^ b, "xnor": ~(a ^ b)}[name]


@vector.define(r"v_not_(?P<type>b32|b16)")
def invert(a):
    return ~a


@vector.define(r"v_(?P<name>or3|xor3|and_or)_(?P<type>b32)", r"v_(?P<name>xad)_(?P<type>u32)")
def logic_of_three(a, b, c, *, name):
    return {"or3": a | b | c, "xor3": a ^ b ^ c, "and_or": a & b | c, "xad": (a ^ b) + c}[name]


@vector.define(r"v_lshlrev_(?P<type>b16|b32|b64)", reads="u32 {type}")
def shift_left(amount, a):
    return a << _within(amount, a)


@vector.define(r"v_lshrrev_(?P<type>b16|b32|b64)", r"v_ashrrev_(?P<type>i16|i32|i64)", reads="u32 {type}")
def shift_right(amount, a):
    return a >> _within(amount, a)


def _within(amount, a):
    """A shift's distance, of which only so many bits count as a has places."""
    return (amount & np.uint32(8 * a.dtype.itemsize - 1)).astype(a.dtype)


@vector.define(r"v_lshl_add_(?P<type>u32|u64)", reads="{type} u32 {type}")
def shift_add(a, amount, b):
    return (a << _within(amount, a)) + b


@vector.define(r"v_add_lshl_(?P<type>u32)")
def add_shift(a, b, amount):
    return (a + b) << (amount & _FIVE_BITS)


@vector.define(r"v_lshl_or_(?P<type>b32)")
def shift_or(a, amount, b):
    return a << (amount & _FIVE_BITS) | b


@vector.define(r"v_bfi_(?P<type>b32)")
def insert(mask, a, b):
    return mask & a | ~mask & b


@vector.define(r"v_bfe_(?P<type>u32|i32)", reads="{type} u32 u32")
def bit_field(a, position, length):
    return extract(a, position & _FIVE_BITS, length & _FIVE_BITS)


@vector.define(r"v_bfm_(?P<type>b32)")
def bit_field_mask(length, position):
    return ((np.uint32(1) << (length & _FIVE_BITS)) - np.uint32(1)) << (position & _FIVE_BITS)


@vector.define(r"v_bfrev_(?P<type>b32)")
def bit_reverse(a):
    return reversed_bits(a.reshape(-1)).reshape(a.shape)


@vector.define(r"v_(?:ffbh|clz_i32)_(?P<type>u32)")
def find_first_high(a):
    # of 0 it is -1
    return np.where(a == 0, np.uint32(0xFFFFFFFF), leading_zeros(a))


@vector.define(r"v_bcnt_u32_(?P<type>b32)")
def count_bits(a, b):
    return np.bitwise_count(a).astype(np.uint32) + b


@vector.define(r"v_alignbit_(?P<type>b32)")
def align_bits(high, low, amount):
    both = high.astype(np.uint64) << np.uint64(32) | low
    return (both >> (amount & _FIVE_BITS).astype(np.uint64)).astype(np.uint32)


@vector.define(r"v_perm_(?P<type>b32)")
def permute_bytes(high, low, selector):
    both = high.astype(np.uint64) << np.uint64(32) | low
    result = np.uint32(0)
    for i in range(4):
        choice = selector >> np.uint32(8 * i) & np.uint32(255)
        byte = (both >> (choice & np.uint32(7)).astype(np.uint64) * np.uint64(8)).astype(np.uint32) & np.uint32(255)
        # 8 to 11: the sign of bytes 1, 3, 5, 7; 12: zeros; above: ones
        odd = (both >> ((choice & np.uint32(3)) * np.uint32(16) + np.uint32(15)).astype(np.uint64)).astype(np.uint32)
        sign = (odd & np.uint32(1)) * np.uint32(255)
        ends = np.where(choice == 12, np.uint32(0), np.uint32(255))
        byte = np.where(choice < 8, byte, np.where(choice < 12, sign, ends))
        result = result | byte << np.uint32(8 * i)
    return result


@vector.define(r"v_pack_b32_(?:f16)", reads="b16 b16", writes="b32")
def pack(low, high):
    return low.astype(np.uint32) | high.astype(np.uint32) << np.uint32(16)


@vector.define(r"v_pk_mov_(?P<type>b32)", reads="b64 b64", writes="b64", modifiers="op_sel op_sel_hi")
def pack_moved(a, b, *, modifiers):
    # the first half of the result is from the first source, and op_sel says from which of its halves
    first, second = (int(digit) for digit in modifiers.get("op_sel", "[0,1]").strip("[]").split(","))
    halves = [value >> np.uint64(32 * half) & np.uint64(0xFFFFFFFF) for value, half in ((a, first), (b, second))]
    return halves[0] | halves[1] << np.uint64(32)
