// The noise: noisestep.reference.noise, sixteen blocks of Philox at once, which a compiler turns into vector instructions.
// The constants come from build.py, which takes them from the reference.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

using i32 = std::int32_t;
using i64 = std::int64_t;
using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

namespace {

constexpr int BLOCKS = 16;
constexpr int TILE = 4 * BLOCKS;

constexpr float LOG[] = {NOISESTEP_LOG};
constexpr float EVEN[] = {NOISESTEP_EVEN};
constexpr float ODD[] = {NOISESTEP_ODD};
constexpr float EXPONENT = NOISESTEP_EXPONENT;
constexpr float TINY = NOISESTEP_TINY;

float as_float(u32 bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

u32 as_bits(float value) {
    u32 bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// recursive, since a loop within a loop would not be made of vector instructions
template <int I = 0, int N>
[[gnu::always_inline]] inline float horner(float x, const float (&coefficients)[N]) {
    if constexpr (I == N - 1)
        return coefficients[I];
    else
        return std::fma(horner<I + 1>(x, coefficients), x, coefficients[I]);
}

// two standard normals from two words: noisestep.reference.noise.normal_pair
[[gnu::always_inline]] inline void normal_pair(u32 u, u32 v, float& z_0, float& z_1) {
    const float w = std::fma(float(u), 0x1p-32f, 0x1p-33f);
    const u32 exponent = (as_bits(w) - 0x3F2AAAABu) & 0xFF800000u;
    const float m = as_float(as_bits(w) - exponent) - 1.0f;
    const float square = std::fma(float(i32(exponent)), EXPONENT, std::fma(horner(m, LOG), m, TINY));
    const float r = std::sqrt(square);
    const float x = as_float((v & 0x7FFFFFu) | 0x3F800001u) - 1.5f;
    const float even = horner(x * x, EVEN), odd = horner(x * x, ODD);
    z_0 = as_float(as_bits(r * std::fma(-x, odd, even)) ^ (v & 0x80000000u));
    z_1 = as_float(as_bits(r * std::fma(x, odd, even)) ^ ((v << 1) & 0x80000000u));
}

}  // namespace

// an address as calls.py passes it; a pointer that is null leaves the number beside it to count
extern "C" struct Address {
    u64 seed;
    i64 stream, step;
    const i64* steps;  // one a row
    i64 sample;
    const i64* samples;  // one a row
};

namespace {

// elements first .. first + TILE - 1 of a row's noise, first a multiple of TILE
void normals(const Address& address, i64 row, i64 first, float* __restrict z) {
    const u32 step = u32(address.steps ? address.steps[row] : address.step) & 0xFFFFFFFu;
    const u64 sample = address.samples ? u64(address.samples[row]) : u64(address.sample) + u64(row);
    u32 c0[BLOCKS], c1[BLOCKS], c2[BLOCKS], c3[BLOCKS];
    for (int i = 0; i < BLOCKS; ++i) {
        c0[i] = u32(first / 4) + u32(i);
        c1[i] = u32(address.stream) << 28 | step;
        c2[i] = u32(sample);
        c3[i] = u32(sample >> 32);
    }
    u32 k0 = u32(address.seed), k1 = u32(address.seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
        for (int i = 0; i < BLOCKS; ++i) {
            const u64 p = u64(c0[i]) * 0xD2511F53u, q = u64(c2[i]) * 0xCD9E8D57u;
            c0[i] = u32(q >> 32) ^ c1[i] ^ k0;
            c2[i] = u32(p >> 32) ^ c3[i] ^ k1;
            c1[i] = u32(q);
            c3[i] = u32(p);
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    float z_0[BLOCKS], z_1[BLOCKS], z_2[BLOCKS], z_3[BLOCKS];
    for (int i = 0; i < BLOCKS; ++i) normal_pair(c0[i], c1[i], z_0[i], z_1[i]);
    for (int i = 0; i < BLOCKS; ++i) normal_pair(c2[i], c3[i], z_2[i], z_3[i]);
    for (int i = 0; i < BLOCKS; ++i) {
        z[4 * i] = z_0[i];
        z[4 * i + 1] = z_1[i];
        z[4 * i + 2] = z_2[i];
        z[4 * i + 3] = z_3[i];
    }
}

}  // namespace
