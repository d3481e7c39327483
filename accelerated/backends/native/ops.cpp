// The ops in float32 on a CPU: the arithmetic of their PyTorch path, in the same order and with the same bits, in one
// pass over memory. build.py compiles this file, with contraction off, and calls what is in extern "C".
//
// A sample is walked in chunks of 1024 elements, a chunk in tiles of 64: sixteen blocks of Philox, which a compiler
// turns into vector instructions. The constants come from build.py, which takes them from the reference.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

using i32 = std::int32_t;
using i64 = std::int64_t;
using u8 = std::uint8_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

namespace {

constexpr int BLOCKS = 16;
constexpr int TILE = 4 * BLOCKS;
constexpr int CHUNK = NOISESTEP_CHUNK;

// the columns of a reverse table: noisestep.accelerated.schedule.ReverseRow
enum Column { NOISESTEP_COLUMNS, COLUMNS };

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
inline float horner(float x, const float (&coefficients)[N]) {
    if constexpr (I == N - 1)
        return coefficients[I];
    else
        return std::fma(horner<I + 1>(x, coefficients), x, coefficients[I]);
}

// two standard normals from two words: noisestep.reference.noise.normal_pair
inline void normal_pair(u32 u, u32 v, float& z_0, float& z_1) {
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

// eps of a tile: given, or made in the buffer
const float* eps_of(const float* eps, const Address& address, i64 row, i64 n, i64 first, float* buffer) {
    if (eps) return eps + row * n + first;
    normals(address, row, first, buffer);
    return buffer;
}

float unit_range(float x_0) { return x_0; }
float unit_range(u8 level) { return (2.0f * float(level) - 255.0f) * float(1.0 / 255.0); }

// work(row, chunk) for every chunk of every row, in stretches of equal length on so many threads
template <typename Work>
void over_chunks(i64 rows, i64 n, int threads, Work work) {
    const i64 chunks = (n + CHUNK - 1) / CHUNK, units = rows * chunks;
    const auto stretch = [&](i64 begin, i64 end) {
        for (i64 unit = begin; unit < end; ++unit) work(unit / chunks, unit % chunks);
    };
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) {
        const i64 begin = units * i / threads, end = units * (i + 1) / threads;
        try {
            others.emplace_back(stretch, begin, end);
        } catch (const std::system_error&) {
            // no more threads to be had
            stretch(begin, end);
        }
    }
    stretch(0, units / threads);
    for (auto& other : others) other.join();
}

// work(row, first element, how many) for every tile
template <typename Work>
void over_tiles(i64 rows, i64 n, int threads, Work work) {
    over_chunks(rows, n, threads, [&](i64 row, i64 chunk) {
        const i64 end = std::min(n, (chunk + 1) * CHUNK);
        for (i64 first = chunk * CHUNK; first < end; first += TILE) work(row, first, int(std::min<i64>(TILE, end - first)));
    });
}

const float* row_of(const float* table, i64 rows_of_table, i64 columns, i64 t) {
    return table + std::clamp<i64>(t, 0, rows_of_table - 1) * columns;
}

// neighbours, then neighbouring sums: backends.eager.pairwise_sum of a chunk
float pairwise_sum(float* __restrict values, float* __restrict halves) {
    for (int size = CHUNK / 2; size > 0; size /= 2) {
        for (int i = 0; i < size; ++i) halves[i] = values[2 * i] + values[2 * i + 1];
        std::swap(values, halves);
    }
    return values[0];
}

// backends.eager.pairwise_sum of any number of values, which are overwritten. Zeros that fill up a power of two change no
// sum, but for the sign of a zero: a lone last value is added to 0
float pairwise_sum_of(float* values, i64 count) {
    if (count == 0) return 0.0f;
    for (; count > 1; count = (count + 1) / 2) {
        for (i64 i = 0; i < count / 2; ++i) values[i] = values[2 * i] + values[2 * i + 1];
        if (count % 2) values[count / 2] = values[count - 1] + 0.0f;
    }
    return values[0];
}

template <typename Image>
void q_sample(const Image* x_0, const float* eps, const Address& address, const i64* t, const float* table,
              i64 rows_of_table, float* x_t, float* eps_out, i64 rows, i64 n, int threads) {
    over_tiles(rows, n, threads, [=](i64 row, i64 first, int count) {
        float buffer[TILE];
        const float* __restrict z = eps_of(eps, address, row, n, first, buffer);
        const float* c = row_of(table, rows_of_table, 2, t[row]);
        const float signal = c[0], noise = c[1];
        const Image* image = x_0 + row * n + first;
        float* noised = x_t + row * n + first;
        for (int i = 0; i < count; ++i) noised[i] = signal * unit_range(image[i]) + noise * z[i];
        if (eps_out) std::copy_n(z, count, eps_out + row * n + first);
    });
}

enum Target { EPS, X_0, V };

template <typename Image>
void simple_loss(const float* output, int target, const Image* x_0, const float* eps, const Address& address,
                 const i64* t, const float* table, i64 rows_of_table, const float* weight, float* residual, int scaled,
                 double factor, float* sums, int mean, float* losses, i64 rows, i64 n, int threads) {
    const float gradient_scale = float(factor);
    const i64 chunks = (n + CHUNK - 1) / CHUNK;
    over_chunks(rows, n, threads, [=](i64 row, i64 chunk) {
        float squares[CHUNK] = {}, halves[CHUNK / 2], buffer[TILE], wanted[TILE];
        const i64 end = std::min(n, (chunk + 1) * CHUNK);
        const float* c = target == V ? row_of(table, rows_of_table, 2, t[row]) : nullptr;
        for (i64 first = chunk * CHUNK; first < end; first += TILE) {
            const int count = int(std::min<i64>(TILE, end - first));
            const i64 at = row * n + first;
            const float* z = target == X_0 ? nullptr : eps_of(eps, address, row, n, first, buffer);
            if (target == EPS) std::copy_n(z, count, wanted);
            if (target == X_0)
                for (int i = 0; i < count; ++i) wanted[i] = unit_range(x_0[at + i]);
            if (target == V)
                for (int i = 0; i < count; ++i) wanted[i] = c[0] * z[i] - c[1] * unit_range(x_0[at + i]);
            float* square = squares + (first - chunk * CHUNK);
            for (int i = 0; i < count; ++i) {
                wanted[i] = output[at + i] - wanted[i];
                square[i] = wanted[i] * wanted[i];
            }
            if (!residual) continue;
            const float scale = weight ? weight[row] : 1.0f;
            for (int i = 0; i < count; ++i) residual[at + i] = scale * wanted[i];
            if (scaled)
                for (int i = 0; i < count; ++i) residual[at + i] = gradient_scale * residual[at + i];
        }
        sums[row * chunks + chunk] = pairwise_sum(squares, halves);
    });
    const float share = float(1.0 / double(std::max<i64>(1, n)));
    float* row_losses = sums + rows * chunks;
    for (i64 row = 0; row < rows; ++row) {
        const float loss = pairwise_sum_of(sums + row * chunks, chunks) * share;
        row_losses[row] = weight ? weight[row] * loss : loss;
    }
    if (mean)
        *losses = pairwise_sum_of(row_losses, rows) / float(rows);
    else
        std::copy_n(row_losses, rows, losses);
}

}  // namespace

extern "C" {

// the first row whose timestep is not one of the table's rows; -1 where there is none
i64 noisestep_first_outside(const i64* t, i64 rows, i64 rows_of_table) {
    for (i64 row = 0; row < rows; ++row)
        if (t[row] < 0 || t[row] >= rows_of_table) return row;
    return -1;
}

void noisestep_noise(const Address* address, float* eps, i64 rows, i64 n, int threads) {
    over_tiles(rows, n, threads, [=](i64 row, i64 first, int count) {
        float buffer[TILE];
        normals(*address, row, first, buffer);
        std::copy_n(buffer, count, eps + row * n + first);
    });
}

void noisestep_q_sample(const void* x_0, int levels, const float* eps, const Address* address, const i64* t,
                        const float* table, i64 rows_of_table, float* x_t, float* eps_out, i64 rows, i64 n,
                        int threads) {
    if (levels)
        q_sample((const u8*)x_0, eps, *address, t, table, rows_of_table, x_t, eps_out, rows, n, threads);
    else
        q_sample((const float*)x_0, eps, *address, t, table, rows_of_table, x_t, eps_out, rows, n, threads);
}

void noisestep_simple_loss(const float* output, int target, const void* x_0, int levels, const float* eps,
                           const Address* address, const i64* t, const float* table, i64 rows_of_table,
                           const float* weight, float* residual, int scaled, double factor, float* sums, int mean,
                           float* losses, i64 rows, i64 n, int threads) {
    if (levels)
        simple_loss(output, target, (const u8*)x_0, eps, *address, t, table, rows_of_table, weight, residual, scaled,
                    factor, sums, mean, losses, rows, n, threads);
    else
        simple_loss(output, target, (const float*)x_0, eps, *address, t, table, rows_of_table, weight, residual, scaled,
                    factor, sums, mean, losses, rows, n, threads);
}

// x_s may be x_t: a tile is read before it is written
void noisestep_reverse_step(const float* x_t, const float* output, const float* unconditional, const float* eps,
                            const Address* address, const i64* t, const float* table, i64 rows_of_table, int noisy, int clip,
                            int own_eps, float* x_s, float* x_0, i64 rows, i64 n, int threads) {
    over_tiles(rows, n, threads, [=](i64 row, i64 first, int count) {
        float buffer[TILE], out[TILE], clean[TILE], next[TILE];
        const float* c = row_of(table, rows_of_table, COLUMNS, t[row]);
        const i64 at = row * n + first;
        const float* x = x_t + at;
        std::copy_n(output + at, count, out);
        if (unconditional) {
            const float* without = unconditional + at;
            for (int i = 0; i < count; ++i) out[i] = without[i] + c[GUIDANCE] * (out[i] - without[i]);
        }
        if (clip || x_0)
            for (int i = 0; i < count; ++i) clean[i] = c[X_0_FROM_X] * x[i] + c[X_0_FROM_OUT] * out[i];
        if (clip) {
            for (int i = 0; i < count; ++i) {
                // written so that a NaN stays one
                clean[i] = clean[i] < c[LOW] ? c[LOW] : clean[i];
                clean[i] = clean[i] > c[HIGH] ? c[HIGH] : clean[i];
            }
            for (int i = 0; i < count; ++i) next[i] = c[FROM_X_0] * clean[i] + c[FROM_X] * x[i];
            if (own_eps)
                for (int i = 0; i < count; ++i) next[i] += c[FROM_OUT] * out[i];
        } else {
            for (int i = 0; i < count; ++i) next[i] = c[UNCLIPPED_FROM_X] * x[i] + c[UNCLIPPED_FROM_OUT] * out[i];
        }
        if (noisy) {
            const float* z = eps_of(eps, *address, row, n, first, buffer);
            for (int i = 0; i < count; ++i) next[i] += c[SIGMA] * z[i];
        }
        std::copy_n(next, count, x_s + at);
        if (x_0) std::copy_n(clean, count, x_0 + at);
    });
}

}  // extern "C"
