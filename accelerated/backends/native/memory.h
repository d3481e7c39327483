// How a function goes through a batch: what its tensors are stored in, its timesteps, and its tiles on threads.
// A sample is walked in chunks of 1024 elements, a chunk in tiles of 64. Whatever type a tensor is stored in, a tile of it
// is computed in float32.

#pragma once

#include <algorithm>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

#include "noise.h"

// the structures that calls.py packs have a word for an address in memory
static_assert(sizeof(void*) == 8, "for processors of 64 bits");

namespace {

constexpr int CHUNK = NOISESTEP_CHUNK;

// how the elements of a tensor are stored: calls._TYPES
enum Type : i64 { FLOAT32, BFLOAT16, FLOAT16, UINT8, FLOAT64 };

// images are levels 0..255, which become [-1, 1]
float widened(u8 level) { return (2.0f * float(level) - 255.0f) * float(1.0 / 255.0); }

struct Bfloat16 {
    u16 bits;
};

float widened(Bfloat16 x) { return as_float(u32(x.bits) << 16); }

// rounded to nearest even; a NaN stays one
void round_to(Bfloat16& stored, float x) {
    const u32 bits = as_bits(x);
    stored.bits = u16((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

struct Float16 {
    u16 bits;
};

float widened(Float16 x) {
    const u32 magnitude = u32(x.bits & 0x7FFFu) << 13, exponent = magnitude & 0x0F800000u;
    // the exponent's bias is 127 in place of 15; 2^-14 is taken off where there is no leading one
    const u32 normal = magnitude + (112u << 23), infinite = normal + (112u << 23);
    const float subnormal = as_float(normal + (1u << 23)) - 0x1p-14f;
    const u32 bits = exponent == 0 ? as_bits(subnormal) : exponent == 0x0F800000u ? infinite : normal;
    return as_float(bits | u32(x.bits & 0x8000u) << 16);
}

void round_to(Float16& stored, float x) {
    const u32 sign = as_bits(x) & 0x80000000u, bits = as_bits(x) ^ sign;
    const u32 normal = (bits - (112u << 23) + 0xFFFu + (bits >> 13 & 1u)) >> 13;
    // below 2^-14 the last place is 2^-24, which is that of float32 from 0.5 on
    const u32 subnormal = as_bits(as_float(bits) + 0.5f) - 0x3F000000u;
    const u32 infinite = bits > 0x7F800000u ? 0x7E00u : 0x7C00u;
    // 2^16 and more has no other form; what is below may round up to it
    stored.bits = u16((bits >= 0x47800000u ? infinite : bits < 0x38800000u ? subnormal : normal) | sign >> 16);
}

float widened(float x) { return x; }
double widened(double x) { return x; }

template <typename Number, typename Stored>
const Number* widen(const Stored* stored, int count, Number* __restrict buffer) {
    if constexpr (std::is_same_v<Number, Stored>) return stored;
    for (int i = 0; i < count; ++i) buffer[i] = Number(widened(stored[i]));
    return buffer;
}

// a tensor of any type, as calls.py passes it
struct Tensor {
    void* data;
    i64 type;

    explicit operator bool() const { return data; }

    // elements first .. first + count - 1 in the type that is computed in: where they are, or in the buffer
    template <typename Number>
    const Number* read(i64 first, int count, Number* buffer) const {
        if (type == UINT8) return widen((const u8*)data + first, count, buffer);
        if (type == BFLOAT16) return widen((const Bfloat16*)data + first, count, buffer);
        if (type == FLOAT16) return widen((const Float16*)data + first, count, buffer);
        if (type == FLOAT64) return widen((const double*)data + first, count, buffer);
        return widen((const float*)data + first, count, buffer);
    }

    // of float32
    void write(i64 first, int count, const float* values) const {
        if (type == BFLOAT16) {
            for (int i = 0; i < count; ++i) round_to(((Bfloat16*)data)[first + i], values[i]);
        } else if (type == FLOAT16) {
            for (int i = 0; i < count; ++i) round_to(((Float16*)data)[first + i], values[i]);
        } else {
            std::copy_n(values, count, (float*)data + first);
        }
    }
};

// the rows of a batch, their length, and on how many threads
struct Batch {
    i64 rows, n, threads;
};

// a timestep for each row, or one for all, and the table of which it picks a row
struct Timesteps {
    const void* t;
    i64 is_int64, count, stride;
    const void* table;
    i64 table_rows;

    i64 at(i64 row) const {
        const i64 i = count == 1 ? 0 : row * stride;
        return is_int64 ? ((const i64*)t)[i] : ((const i32*)t)[i];
    }

    template <typename Number>
    const Number* row(i64 row, i64 columns) const {
        return (const Number*)table + at(row) * columns;
    }

    bool outside(i64 first = 0) const {
        for (i64 row = 0; row < count; ++row)
            if (at(row) < first || at(row) >= table_rows) return true;
        return false;
    }
};

// a number of a call: one for all rows, or in memory, a stride apart
struct Scalar {
    double number;
    const float* rows;
    i64 stride;

    float at(i64 row) const { return rows ? rows[row * stride] : float(number); }
};

// eps of a tile: given, or made in the buffer
const float* eps_of(const Tensor& eps, const Address& address, i64 row, i64 n, i64 first, int count, float* buffer) {
    if (eps) return eps.read(row * n + first, count, buffer);
    normals(address, row, first, buffer);
    return buffer;
}

// work(row, chunk) for every chunk of every row, in stretches of equal length on so many threads
template <typename Work>
void over_chunks(const Batch& batch, Work work) {
    const i64 chunks = (batch.n + CHUNK - 1) / CHUNK, units = batch.rows * chunks, threads = batch.threads;
    const auto stretch = [&](i64 begin, i64 end) {
        for (i64 unit = begin; unit < end; ++unit) work(unit / chunks, unit % chunks);
    };
    std::vector<std::thread> others;
    for (i64 i = 1; i < threads; ++i) {
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

// work(row, first element, how many) for every tile of a chunk
template <typename Work>
void over_tiles_of(i64 row, i64 chunk, i64 n, Work work) {
    const i64 end = std::min(n, (chunk + 1) * CHUNK);
    for (i64 first = chunk * CHUNK; first < end; first += TILE) work(row, first, int(std::min<i64>(TILE, end - first)));
}

template <typename Work>
void over_tiles(const Batch& batch, Work work) {
    over_chunks(batch, [&](i64 row, i64 chunk) { over_tiles_of(row, chunk, batch.n, work); });
}

}  // namespace
