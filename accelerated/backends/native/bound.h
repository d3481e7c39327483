// What the terms of the variational bound are made of, in float64: exp, and the logarithm of a level's probability.

#pragma once

#include <cmath>
#include <cstring>

#include "noise.h"

namespace {

double as_double(u64 bits) {
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

u64 as_bits(double value) {
    u64 bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// the series of exp up to x^13 / 13!, which leaves 5e-18 where |x| <= log(2) / 2
constexpr double INVERSE_FACTORIALS[] = {1.0,          1.0,           1.0 / 2,        1.0 / 6,         1.0 / 24,
                                         1.0 / 120,    1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                                         1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};

template <int I = 0>
[[gnu::always_inline]] inline double exp_series(double x) {
    if constexpr (I == 13)
        return INVERSE_FACTORIALS[I];
    else
        return std::fma(exp_series<I + 1>(x), x, INVERSE_FACTORIALS[I]);
}

// exp within an ulp, of vector instructions, which the C library's is not made of
[[gnu::always_inline]] inline double exp_of(double x) {
    // added, it leaves the nearest integer in the low bits
    constexpr double SHIFT = 0x1.8p52;
    // what is beyond overflows or vanishes all the same, and a NaN stays one
    x = x < -800.0 ? -800.0 : x;
    x = x > 800.0 ? 800.0 : x;
    const double n = (x * 0x1.71547652b82fep0 + SHIFT) - SHIFT;
    const double rest = std::fma(n, -0x1.abc9e3b39803fp-56, std::fma(n, -0x1.62e42fefa39efp-1, x));
    // 2^n as two factors, each of which is a normal number
    const double half = (n * 0.5 + SHIFT) - SHIFT, other = n - half;
    const double a = as_double((as_bits(half + SHIFT) << 52) + (u64(1023) << 52));
    const double b = as_double((as_bits(other + SHIFT) << 52) + (u64(1023) << 52));
    return exp_series(rest) * a * b;
}

// the outermost levels reach to infinity: ops.vlb_terms._INFINITY
constexpr double INFINITE_EDGE = 1e9;

// (1 - Phi(z)) / phi(z) for z >= 30 by Laplace's continued fraction
double mills(double z) {
    double value = z;
    for (int k = 12; k > 0; --k) value = z + k / value;
    return 1 / value;
}

// log of the probability of a level's interval
double log_likelihood(double x_0, double mean, double inverse_sigma, double half_bin) {
    const double low = x_0 < half_bin - 1 ? -INFINITE_EDGE : (x_0 - half_bin - mean) * inverse_sigma;
    const double high = x_0 > 1 - half_bin ? INFINITE_EDGE : (x_0 + half_bin - mean) * inverse_sigma;
    // an interval on the left is mirrored: near lies towards 0, far in the right tail
    const bool mirrored = low + high < 0;
    const double near = mirrored ? -high : low, far = mirrored ? -low : high;
    if (near < 30) return std::log(0.5 * (std::erfc(near * std::sqrt(0.5)) - std::erfc(far * std::sqrt(0.5))));
    // further out erfc vanishes
    const double share = mills(near) - mills(far) * std::exp((near - far) * (near + far) * 0.5);
    return std::log(share) - 0.5 * near * near - 0.9189385332046727;
}

}  // namespace
