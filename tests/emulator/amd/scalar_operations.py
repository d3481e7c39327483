"""Operations on scalar registers (AMD's ISA documents, "SOP1", "SOP2", "SOPK", "SOPC")."""

import numpy as np

from ..integers import extract, high_product, leading_zeros, reversed_bits
from .isa import scalar
from .mask_operations import compared

_WORD = r"(?P<type>b32|b64)"


@scalar.define(rf"s_mov_{_WORD}")
def move(a):
    return a


@scalar.define(r"s_movk_(?P<type>i32)", reads="i16")
def move_short(a):
    return a.astype(np.int32)


@scalar.define(r"s_addk_(?P<type>i32)", reads="i16 =i32")
def add_short(a, b):
    exact = a.astype(np.int64) + b
    return exact.astype(np.int32), exact != exact.astype(np.int32)


@scalar.define(r"s_mulk_(?P<type>i32)", reads="i16 =i32")
def multiply_short(a, b):
    return a.astype(np.int32) * b


@scalar.define(rf"s_cselect_{_WORD}")
def select(a, b, *, scc):
    return np.where(scc, a, b)


@scalar.define(rf"s_cmov_{_WORD}", reads="{type} ={type}")
def move_if(a, b, *, scc):
    return np.where(scc, a, b)


@scalar.define(r"s_(?P<name>add|addc|sub|subb)_(?P<type>u32)")
def add_or_subtract(a, b, *, name, scc):
    carry = scc.astype(np.int64) if name in ("addc", "subb") else np.int64(0)
    exact = a.astype(np.int64) + b + carry if "add" in name else a.astype(np.int64) - b - carry
    return exact.astype(np.uint32), (exact < 0) | (exact >= 1 << 32)


@scalar.define(r"s_(?P<name>add|sub)_(?P<type>i32)")
def add_or_subtract_signed(a, b, *, name):
    exact = a.astype(np.int64) + (b if name == "add" else -b.astype(np.int64))
    return exact.astype(np.int32), exact != exact.astype(np.int32)


@scalar.define(r"s_lshl(?P<amount>[1-4])_add_(?P<type>u32)")
def shift_add(a, b, *, amount):
    exact = (a.astype(np.uint64) << np.uint64(amount)) + b
    return exact.astype(np.uint32), exact >= 1 << 32


@scalar.define(r"s_mul_(?P<type>i32)")
def multiply(a, b):
    return a * b


@scalar.define(r"s_mul_hi_(?P<type>u32|i32)")
def multiply_high(a, b):
    return high_product(a, b)


@scalar.define(r"s_(?P<name>min|max)_(?P<type>u32|i32)")
def extreme(a, b, *, name):
    value = np.minimum(a, b) if name == "min" else np.maximum(a, b)
    return value, np.broadcast_to(value == a, value.shape)


@scalar.define(
    rf"s_(?P<name>and|or|xor|nand|nor|xnor)_{_WORD}",
    rf"s_(?P<name>and|or)(?P<inverted>_not1)_{_WORD}",
    rf"s_(?P<name>and|or)(?P<inverted>n2)_{_WORD}",
)
def logic(a, b, *, name, inverted=""):
    # gfx9 writes andn2, gfx11 and_not1
    b = ~b if inverted else b
    value = {"and": a & b, "nand": ~(a & b), "or": a | b, "nor": ~(a | b), "xor": a ^ b, "xnor": ~(a ^ b)}[name]
    return value, value != 0


@scalar.define(rf"s_not_{_WORD}")
def invert(a):
    return ~a, ~a != 0


@scalar.define(rf"s_lshl_{_WORD}", reads="{type} u32")
def shift_left(a, amount):
    value = a << _within(amount, a)
    return value, value != 0


@scalar.define(rf"s_lshr_{_WORD}", r"s_ashr_(?P<type>i32|i64)", reads="{type} u32")
def shift_right(a, amount):
    value = a >> _within(amount, a)
    return value, value != 0


def _within(amount, a):
    return (amount & np.uint32(8 * a.dtype.itemsize - 1)).astype(a.dtype)


@scalar.define(r"s_bfe_(?P<type>u32|i32)", reads="{type} u32")
def bit_field(a, where):
    # the position in bits 4..0, the length in bits 22..16
    value = extract(a, where & np.uint32(31), where >> np.uint32(16) & np.uint32(127))
    return value, value != 0


@scalar.define(r"s_bfm_(?P<type>b32)")
def bit_field_mask(length, position):
    return ((np.uint32(1) << (length & np.uint32(31))) - np.uint32(1)) << (position & np.uint32(31))


@scalar.define(r"s_bitset(?P<value>[01])_(?P<type>b32)", reads="b32 =b32")
def set_bit(position, a, *, value):
    bit = np.uint32(1) << (position & np.uint32(31))
    return a | bit if value == "1" else a & ~bit


@scalar.define(r"s_brev_(?P<type>b32)")
def bit_reverse(a):
    return reversed_bits(a)


@scalar.define(r"s_abs_(?P<type>i32)")
def absolute(a):
    return np.abs(a), a != 0


@scalar.define(r"s_sext_(?P<type>i32)_i(?P<size>8|16)")
def extend_sign(a, *, size):
    return a.astype(np.int8 if size == "8" else np.int16).astype(np.int32)


@scalar.define(rf"s_bcnt1_i32_{_WORD}", writes="u32")
def count_bits(a):
    value = np.bitwise_count(a).astype(np.uint32)
    return value, value != 0


@scalar.define(r"s_(?:flbit_i32|clz_i32_u32|flbit_i32_b32)_?(?P<type>b32|u32)?", reads="u32", writes="u32")
def find_first_high(a):
    return np.where(a == 0, np.uint32(0xFFFFFFFF), leading_zeros(a))


@scalar.define(r"s_pack_(?P<low>[lh])(?P<high>[lh])_b32_b16", reads="b32 b32", writes="b32")
def pack(a, b, *, low, high):
    first = a & np.uint32(0xFFFF) if low == "l" else a >> np.uint32(16)
    second = b & np.uint32(0xFFFF) if high == "l" else b >> np.uint32(16)
    return first | second << np.uint32(16)


@scalar.define(
    r"s_cmp_(?P<relation>eq|lg|gt|ge|lt|le)_(?P<type>u32|i32)",
    r"s_cmp_(?P<relation>eq|lg)_(?P<type>u64)",
    writes="scc",
)
def compare(a, b, *, relation):
    return compared(a, b, relation)


@scalar.define(r"s_cmpk_(?P<relation>eq|lg|gt|ge|lt|le)_(?P<type>u32)", reads="u32 u16", writes="scc")
@scalar.define(r"s_cmpk_(?P<relation>eq|lg|gt|ge|lt|le)_(?P<type>i32)", reads="i32 i16", writes="scc")
def compare_short(a, b, *, relation):
    return compared(a, b.astype(a.dtype), relation)


@scalar.define(r"s_bitcmp(?P<value>[01])_(?P<type>b32)", writes="scc")
def compare_bit(a, position, *, value):
    return (a >> (position & np.uint32(31)) & np.uint32(1)) == np.uint32(value)
