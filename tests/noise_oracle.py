"""The noise in exact arithmetic: Python's integers and fractions, rounded where docs/noise.md rounds.

Nothing of the package is imported, so that the golden vectors do not confirm themselves.
``python tests/noise_oracle.py > tests/golden/noise.json`` writes them.
"""

import json
import struct
from fractions import Fraction
from itertools import pairwise
from math import isqrt

LOG = "bffffffc 3f7fff8d bf2ab27c 3f001c41 beca6598 3ea60d4b beb0f7b7 3ea6c112"
EVEN = "3f3504f3 bf5f52b5 3e37a07d bc6c808e"
ODD = "3f8e2c19 bee9dd32 3d66cb4c bb55c748"
MINUS_2_LN_2 = "bfb17218"
# the counter, the key and the block that they give, from the authors' file of known answers
PHILOX = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)


def number(bits: int) -> Fraction:
    """The value of a float32 from its bits."""
    return Fraction(struct.unpack(">f", bits.to_bytes(4))[0])


def bits_of(value: Fraction) -> int:
    """The bits of a value that is a float32."""
    return int.from_bytes(struct.pack(">f", float(value)))


def numbers(text: str) -> list[Fraction]:
    return [number(int(word, 16)) for word in text.split()]


def unit(value: Fraction) -> Fraction:
    """One unit in the last place of a float32 near a positive value."""
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    exponent -= value < Fraction(2) ** exponent
    return Fraction(2) ** (exponent - 23)


def rounded(value: Fraction) -> Fraction:
    """The nearest float32, and the even one of two."""
    ulp = unit(abs(value)) if value else Fraction(1)
    return round(value / ulp) * ulp


def fma(a: Fraction, b: Fraction, c: Fraction) -> Fraction:
    return rounded(a * b + c)


def square_root(value: Fraction) -> Fraction:
    """The float32 nearest to the root; no root of a float32 lies halfway between two."""
    ulp = unit(Fraction(isqrt(int(value * 4**40)), 2**40))
    below = isqrt(int(value / ulp**2))
    return (below + (value / ulp**2 > (below + Fraction(1, 2)) ** 2)) * ulp


def polynomial(x: Fraction, coefficients: list[Fraction]) -> Fraction:
    result = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        result = fma(result, x, coefficient)
    return result


def pair(u: int, v: int) -> tuple[int, int]:
    """The bits of the two normals that two words make."""
    w = fma(rounded(Fraction(u)), Fraction(1, 2**32), Fraction(1, 2**33))
    exponent = 0
    while w / Fraction(2) ** exponent < number(0x3F2AAAAB):
        exponent -= 1
    m = w / Fraction(2) ** exponent - 1
    square = fma(polynomial(m, numbers(LOG)), m, Fraction(1, 2**40))
    r = square_root(fma(Fraction(exponent), *numbers(MINUS_2_LN_2), square))
    x = Fraction(v % 2**23 | 1, 2**23) - Fraction(1, 2)
    even, odd = (polynomial(rounded(x * x), numbers(text)) for text in (EVEN, ODD))
    z_0, z_1 = rounded(r * fma(-x, odd, even)), rounded(r * fma(x, odd, even))
    return bits_of(z_0) ^ (v & 1 << 31), bits_of(z_1) ^ (v << 1 & 1 << 31)


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10."""
    a, b, c, d = counter
    for turn in range(10):
        low, high = (word + turn * weyl & 2**32 - 1 for word, weyl in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True))
        left, right = divmod(0xCD9E8D57 * c, 2**32), divmod(0xD2511F53 * a, 2**32)
        a, b, c, d = left[0] ^ b ^ low, left[1], right[0] ^ d ^ high, right[1]
    return [a, b, c, d]


def word(seed: int, stream: int, step: int, sample: int, element: int) -> int:
    counter = [element // 4, stream * 2**28 + step, sample % 2**32, sample // 2**32]
    return philox(counter, [seed % 2**32, seed // 2**32])[element % 4]


def order(seed: int, epoch: int, n: int) -> list[int]:
    """The permutation of 0 .. n - 1 in an epoch."""
    keys = [word(seed, 6, epoch, 0, 2 * i) * 2**32 + word(seed, 6, epoch, 0, 2 * i + 1) for i in range(n)]
    return sorted(range(n), key=keys.__getitem__)


def golden() -> dict[str, list]:
    """The golden vectors; 64-bit numbers and bits in hexadecimal."""
    last_seed, last_step, last_sample = 2**64 - 1, 2**28 - 1, 2**64 - 1
    # (seed, stream, step, sample, first element)
    places = [
        (0, 0, 0, 0, 0),
        (0, 0, 1, 0, 0),
        (0, 0, 0, 1, 0),
        (1, 0, 0, 0, 0),
        (0, 3, 1000, 7, 0),
        (2**32, 2, 0, 2**32 + 1, 0),
        (0x0123456789ABCDEF, 15, 0x7654321, 0xFEDCBA98, 0),
        (last_seed, 15, last_step, 2**63 - 1, 0),
        (last_seed, 15, last_step, last_sample, 0),
        (0, 0, 0, 0, 2**33),
        (3, 0, 12345, 2**40 + 5, 2**34 - 8),
    ]
    # the ends of every range, ties of the conversion of u, and both sides of the split at 2/3
    edges = [0, 1, 2**23 + 1, 2**24 + 1, 2**24 + 3, 0x55555540, 0xAAAAAA80, 0xAAAAAB00, 2**31, 2**32 - 128, 2**32 - 1]
    angles = [0, 2**22, 2**23 - 1, 1 << 30, 2**32 - 1, 1 << 31 | 0x345678]

    def address(place: tuple[int, ...]) -> dict[str, str | int]:
        seed, stream, step, sample = place[:4]
        return {"seed": hex(seed), "stream": stream, "step": step, "sample": hex(sample)}

    def normals(place: tuple[int, ...]) -> dict[str, object]:
        row = [word(*place[:4], place[4] + i) for i in range(8)]
        pairs = [pair(u, v) for u, v in list(pairwise(row))[::2]]
        return address(place) | {"first": hex(place[4]), "words": row, "normals": [z for both in pairs for z in both]}

    spans = [(1, 1000), (0, 0), (-5, 5), (1, 2**31)]
    return {
        "philox": [dict(zip(("counter", "key", "block"), map(hexadecimal, row), strict=True)) for row in PHILOX],
        "pair": [{"u": u, "v": v, "normals": list(pair(u, v))} for u, v in edge_cases(edges, angles)],
        "normal": [normals(place) for place in places],
        "uniform": [
            address(place) | {"bits": bits_of(Fraction(word(*place[:4], 0) >> 8, 2**24))} for place in places[:9]
        ],
        "integers": [
            address(place) | {"low": low, "high": high, "value": low + (word(*place[:4], 0) * (high - low + 1) >> 32)}
            for place in places[2:8:2]
            for low, high in spans
        ],
        "permutation": [
            {"seed": hex(seed), "epoch": epoch, "n": n, "order": order(seed, epoch, n)}
            for seed, epoch, n in ((0, 0, 10), (0, 1, 10), (last_seed, last_step, 33), (5, 2, 1))
        ],
    }


def edge_cases(edges: list[int], angles: list[int]) -> list[tuple[int, int]]:
    return [(u, angles[i % len(angles)]) for i, u in enumerate(edges)] + [(2**31, v) for v in angles]


def hexadecimal(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def as_text(vectors: dict[str, list]) -> str:
    """JSON with one entry a line; words and bits as eight hexadecimal digits."""

    def plain(name: str, value: object) -> object:
        if name in ("order", "value", "low", "high", "stream", "step", "epoch", "n") or isinstance(value, str):
            return value
        return [f"{x:08x}" for x in value] if isinstance(value, list) else f"{value:08x}"

    groups = []
    for group, entries in vectors.items():
        rows = [json.dumps({name: plain(name, value) for name, value in entry.items()}) for entry in entries]
        groups.append(f'"{group}": [\n  ' + ",\n  ".join(rows) + "\n]")
    return "{\n" + ",\n".join(groups) + "\n}\n"


if __name__ == "__main__":
    print(as_text(golden()), end="")
