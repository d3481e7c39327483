// The loops of feed.py and normals.py: random words in an order of the address, and counts and sums of normals.

#include <algorithm>
#include <cstdint>
#include <cstring>

using u32 = std::uint32_t;
using u64 = std::uint64_t;

namespace {

constexpr int LANES = 16;

// feed.ORDERS
enum Order { ELEMENTS, SAMPLES, STEPS, STREAMS, SEEDS, INTERLEAVED };

struct Place {
    u64 seed = 0;
    u32 stream = 0, step = 0;
    u64 sample = 0;
    u32 block = 0;
};

// the i-th block of words in an order
Place place(int order, u64 i) {
    Place at;
    switch (order) {
        case ELEMENTS: at.block = u32(i), at.sample = i >> 32; break;
        case SAMPLES: at.sample = i; break;
        case STEPS: at.step = u32(i & 0xFFFFFFFu), at.sample = i >> 28; break;
        case STREAMS: at.stream = u32(i & 15), at.sample = i >> 4; break;
        case SEEDS: at.seed = i; break;
        // as training takes them: 16 blocks of each of the 128 samples of each step
        case INTERLEAVED: at.block = u32(i & 15), at.sample = i >> 4 & 127, at.step = u32(i >> 11 & 0xFFFFFFFu); break;
    }
    return at;
}

// docs/noise.md: blocks first .. first + LANES - 1 in an order
void blocks(int order, u64 first, u32 (&c0)[LANES], u32 (&c1)[LANES], u32 (&c2)[LANES], u32 (&c3)[LANES]) {
    u32 k0[LANES], k1[LANES];
    for (int i = 0; i < LANES; ++i) {
        const Place at = place(order, first + u64(i));
        c0[i] = at.block, c1[i] = at.stream << 28 | at.step, c2[i] = u32(at.sample), c3[i] = u32(at.sample >> 32);
        k0[i] = u32(at.seed), k1[i] = u32(at.seed >> 32);
    }
    for (int round = 0; round < 10; ++round) {
        for (int i = 0; i < LANES; ++i) {
            const u64 p = u64(c0[i]) * 0xD2511F53u, q = u64(c2[i]) * 0xCD9E8D57u;
            c0[i] = u32(q >> 32) ^ c1[i] ^ k0[i], c1[i] = u32(q);
            c2[i] = u32(p >> 32) ^ c3[i] ^ k1[i], c3[i] = u32(p);
            k0[i] += 0x9E3779B9u, k1[i] += 0xBB67AE85u;
        }
    }
}

}  // namespace

extern "C" {

// count words from block `first` on, 4 of each block where `whole`, else word 0 of each; count is a multiple of 64
void words(int order, int whole, u64 first, u64 count, u32* out) {
    u32 c0[LANES], c1[LANES], c2[LANES], c3[LANES];
    for (u64 done = 0; done < count; first += LANES) {
        blocks(order, first, c0, c1, c2, c3);
        for (int i = 0; i < LANES; ++i) {
            out[done++] = c0[i];
            if (whole) out[done++] = c1[i], out[done++] = c2[i], out[done++] = c3[i];
        }
    }
}

// adds n normals, a multiple of 8, to the counts by the upper 16 bits of a float32; to the sums of z, z^2, z^3 and z^4 of
// even elements, those of odd ones, and of the products z_0 z_1, z_0^2 z_1^2 of pairs and z_1 z_2 between pairs; and to
// the least and the largest value
void census(const float* z, u64 n, u64* counts, double* sums, float* ends) {
    for (u64 i = 0; i < n; ++i) {
        u32 bits;
        std::memcpy(&bits, z + i, sizeof bits);
        ++counts[bits >> 16];
    }
    double even[4][4] = {}, odd[4][4] = {}, pair[3][4] = {};
    float low = ends[0], high = ends[1];
    for (u64 i = 0; i < n; i += 8) {
        for (int k = 0; k < 4; ++k) {
            const double a = z[i + 2 * k], b = z[i + 2 * k + 1], c = z[i + 2 * (k + 1) % 8];
            even[0][k] += a, even[1][k] += a * a, even[2][k] += a * a * a, even[3][k] += a * a * (a * a);
            odd[0][k] += b, odd[1][k] += b * b, odd[2][k] += b * b * b, odd[3][k] += b * b * (b * b);
            pair[0][k] += a * b, pair[1][k] += a * a * (b * b), pair[2][k] += b * c;
        }
        for (int k = 0; k < 8; ++k) low = std::min(low, z[i + k]), high = std::max(high, z[i + k]);
    }
    for (int k = 0; k < 4; ++k) {
        for (int j = 0; j < 4; ++j) sums[j] += even[j][k], sums[4 + j] += odd[j][k];
        for (int j = 0; j < 3; ++j) sums[8 + j] += pair[j][k];
    }
    ends[0] = low, ends[1] = high;
}

}  // extern "C"
