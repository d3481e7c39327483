// The ops on a CPU: the arithmetic of their PyTorch path, in the same order and with the same bits, in one pass over
// memory. build.py compiles this file, with contraction off; calls.py calls what is in extern "C".
//
// A sample is walked in chunks of 1024 elements, a chunk in tiles of 64: sixteen blocks of Philox, which a compiler
// turns into vector instructions. Whatever type a tensor is stored in, a tile of it is computed in float32.
// The constants come from build.py, which takes them from the reference.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

using i32 = std::int32_t;
using i64 = std::int64_t;
using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

// the structures that calls.py packs have a word for an address in memory
static_assert(sizeof(void*) == 8, "for processors of 64 bits");

namespace {

constexpr int BLOCKS = 16;
constexpr int TILE = 4 * BLOCKS;
constexpr int CHUNK = NOISESTEP_CHUNK;

// the columns of a table: noisestep.accelerated.schedule.ReverseRow and StepRow
enum Column { NOISESTEP_COLUMNS, COLUMNS };
namespace step {
enum Column { NOISESTEP_STEP_COLUMNS, COLUMNS };
}
constexpr int MOST_HISTORY = NOISESTEP_MOST_HISTORY;

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

// backends.eager.chunk_size: what is summed at once of n elements, zeros behind them
int chunk_size(i64 n) {
    int size = 1;
    while (size < n && size < CHUNK) size *= 2;
    return size;
}

// neighbours, then neighbouring sums: backends.eager.pairwise_sum of a chunk
template <typename Number>
Number pairwise_sum(Number* __restrict values, int size, Number* __restrict halves) {
    for (; size > 1; size /= 2) {
        for (int i = 0; i < size / 2; ++i) halves[i] = values[2 * i] + values[2 * i + 1];
        std::swap(values, halves);
    }
    return values[0];
}

// backends.eager.pairwise_sum of any number of values, which are overwritten. Zeros that fill up a power of two change no
// sum, but for the sign of a zero: a lone last value is added to 0
template <typename Number>
Number pairwise_sum_of(Number* values, i64 count) {
    if (count == 0) return 0;
    for (; count > 1; count = (count + 1) / 2) {
        for (i64 i = 0; i < count / 2; ++i) values[i] = values[2 * i] + values[2 * i + 1];
        if (count % 2) values[count / 2] = values[count - 1] + Number(0);
    }
    return values[0];
}

enum Target : i64 { EPS, X_0, V };

// --- the terms of the bound, in float64 -------------------------------------------------------------------------------

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
inline double exp_series(double x) {
    if constexpr (I == 13)
        return INVERSE_FACTORIALS[I];
    else
        return std::fma(exp_series<I + 1>(x), x, INVERSE_FACTORIALS[I]);
}

// exp within an ulp, of vector instructions, which the C library's is not made of
inline double exp_of(double x) {
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

// The arguments of each function are a structure of words of 64 bits, which calls.py packs. A function that takes
// timesteps does nothing and returns 1 where one of them is not a row of the table.
extern "C" {

struct Noise {
    Batch batch;
    Address address;
    Tensor eps;
};

i64 noisestep_noise(const Noise* given) {
    const Noise a = *given;
    over_tiles(a.batch, [=](i64 row, i64 first, int count) {
        float buffer[TILE];
        normals(a.address, row, first, buffer);
        a.eps.write(row * a.batch.n + first, count, buffer);
    });
    return 0;
}

struct QSample {
    Batch batch;
    Tensor x_0, eps;
    Address address;
    Timesteps timesteps;
    Tensor x_t, eps_out, kept;
};

i64 noisestep_q_sample(const QSample* given) {
    const QSample a = *given;
    if (a.timesteps.outside()) return 1;
    over_tiles(a.batch, [=](i64 row, i64 first, int count) {
        float eps[TILE], image[TILE], noised[TILE];
        const i64 at = row * a.batch.n + first;
        const float* z = eps_of(a.eps, a.address, row, a.batch.n, first, count, eps);
        const float* x_0 = a.x_0.read(at, count, image);
        const float* c = a.timesteps.row<float>(row, 2);
        const float signal = c[0], noise = c[1];
        for (int i = 0; i < count; ++i) noised[i] = signal * x_0[i] + noise * z[i];
        a.x_t.write(at, count, noised);
        if (a.eps_out) a.eps_out.write(at, count, z);
        if (a.kept) a.kept.write(at, count, z);
    });
    return 0;
}

struct SimpleLoss {
    Batch batch;
    Tensor output;
    Target target;
    Tensor x_0, eps;
    Address address;
    Timesteps timesteps;
    const float* weight;
    // the weighted residual, or where it is scaled the gradient
    Tensor residual;
    i64 scaled;
    double scale;
    i64 mean;
    float* losses;
};

i64 noisestep_simple_loss(const SimpleLoss* given) {
    const SimpleLoss a = *given;
    // the target v has no meaning without noise
    if (a.timesteps.t && a.timesteps.outside(1)) return 1;
    const i64 n = a.batch.n, chunks = (n + CHUNK - 1) / CHUNK;
    const int size = chunk_size(n);
    std::vector<float> chunk_sums(a.batch.rows * chunks), row_losses(a.batch.rows);
    float* sums = chunk_sums.data();
    const float scale = float(a.scale);
    over_chunks(a.batch, [=](i64 row, i64 chunk) {
        float squares[CHUNK], halves[CHUNK / 2];
        std::fill_n(squares, size, 0.0f);
        over_tiles_of(row, chunk, n, [&](i64, i64 first, int count) {
            float eps[TILE], image[TILE], out[TILE], wanted[TILE], difference[TILE];
            const i64 at = row * n + first;
            const float* z = a.target == X_0 ? nullptr : eps_of(a.eps, a.address, row, n, first, count, eps);
            const float* x_0 = a.target == EPS ? nullptr : a.x_0.read(at, count, image);
            if (a.target == V) {
                const float* c = a.timesteps.row<float>(row, 2);
                for (int i = 0; i < count; ++i) wanted[i] = c[0] * z[i] - c[1] * x_0[i];
            }
            const float* target = a.target == EPS ? z : a.target == X_0 ? x_0 : wanted;
            const float* output = a.output.read(at, count, out);
            float* square = squares + (first - chunk * CHUNK);
            for (int i = 0; i < count; ++i) {
                difference[i] = output[i] - target[i];
                square[i] = difference[i] * difference[i];
            }
            if (!a.residual) return;
            const float weight = a.weight ? a.weight[row] : 1.0f;
            for (int i = 0; i < count; ++i) difference[i] = weight * difference[i];
            a.residual.write(at, count, difference);
            if (!a.scaled) return;
            // rounded once more, as where the gradient is made from a residual in memory
            const float* residual = a.residual.read(at, count, out);
            for (int i = 0; i < count; ++i) difference[i] = scale * residual[i];
            a.residual.write(at, count, difference);
        });
        sums[row * chunks + chunk] = pairwise_sum(squares, size, halves);
    });
    const float share = float(1.0 / double(std::max<i64>(1, n)));
    for (i64 row = 0; row < a.batch.rows; ++row) {
        const float loss = pairwise_sum_of(sums + row * chunks, chunks) * share;
        row_losses[row] = a.weight ? a.weight[row] * loss : loss;
    }
    if (a.mean)
        *a.losses = pairwise_sum_of(row_losses.data(), a.batch.rows) / float(a.batch.rows);
    else
        std::copy_n(row_losses.data(), a.batch.rows, a.losses);
    return 0;
}

struct SimpleLossBackward {
    Batch batch;
    const float* grad;
    i64 grad_stride, mean;
    Tensor residual, gradient;
};

i64 noisestep_simple_loss_backward(const SimpleLossBackward* given) {
    const SimpleLossBackward a = *given;
    const i64 n = a.batch.n;
    const float share = float(2.0 / double(std::max<i64>(1, n)));
    over_tiles(a.batch, [=](i64 row, i64 first, int count) {
        float buffer[TILE], gradient[TILE];
        const float grad = a.grad[row * a.grad_stride];
        const float scale = (a.mean ? grad / float(a.batch.rows) : grad) * share;
        const float* residual = a.residual.read(row * n + first, count, buffer);
        for (int i = 0; i < count; ++i) gradient[i] = scale * residual[i];
        a.gradient.write(row * n + first, count, gradient);
    });
    return 0;
}

// what D is; NONE is a step without history, whose table has the columns of ReverseRow
enum Memory : i64 { NONE, OF_X_0, OF_EPS };

struct Update {
    Batch batch;
    Tensor x_t, output, unconditional, eps, history[MOST_HISTORY];
    Address address;
    Timesteps timesteps;
    Scalar guidance, low, high, temperature;
    i64 noisy, clip, own_eps;
    Memory memory;
    // D where it is wanted
    Tensor x_s, prediction;
};

// x_s may be x_t, and the prediction one of the history: a tile is read before it is written
i64 noisestep_update(const Update* given) {
    const Update a = *given;
    if (a.timesteps.outside()) return 1;
    over_tiles(a.batch, [=](i64 row, i64 first, int count) {
        float eps[TILE], read[TILE], earlier[TILE], out[TILE], kept[TILE], next[TILE];
        const float* c = a.timesteps.row<float>(row, a.memory ? i64(step::COLUMNS) : i64(COLUMNS));
        const float guidance = a.guidance.at(row), low = a.low.at(row), high = a.high.at(row);
        const i64 at = row * a.batch.n + first;
        std::copy_n(a.output.read(at, count, read), count, out);
        if (a.unconditional) {
            const float* without = a.unconditional.read(at, count, read);
            for (int i = 0; i < count; ++i) out[i] = without[i] + guidance * (out[i] - without[i]);
        }
        const float* x = a.x_t.read(at, count, read);
        // both tables begin with these two
        static_assert(int(X_0_FROM_X) == int(step::X_0_FROM_X) && int(X_0_FROM_OUT) == int(step::X_0_FROM_OUT));
        float from_x = c[X_0_FROM_X], from_out = c[X_0_FROM_OUT];
        if (a.memory == OF_EPS && !a.clip) {
            from_x = c[step::UNCLIPPED_EPS_FROM_X];
            from_out = c[step::UNCLIPPED_EPS_FROM_OUT];
        }
        if (a.clip || a.memory || a.prediction)
            for (int i = 0; i < count; ++i) kept[i] = from_x * x[i] + from_out * out[i];
        if (a.clip)
            for (int i = 0; i < count; ++i) {
                // written so that a NaN stays one
                kept[i] = kept[i] < low ? low : kept[i];
                kept[i] = kept[i] > high ? high : kept[i];
            }
        if (a.clip && a.memory == OF_EPS)
            for (int i = 0; i < count; ++i) kept[i] = c[step::EPS_FROM_X] * x[i] + c[step::EPS_FROM_X_0] * kept[i];
        if (a.memory) {
            for (int i = 0; i < count; ++i) next[i] = c[step::FROM_X] * x[i] + c[step::FROM_PREDICTION] * kept[i];
            for (int k = 0; k < MOST_HISTORY && a.history[k]; ++k) {
                const float weight = c[step::FROM_HISTORY_1 + k];
                const float* term = a.history[k].read(at, count, earlier);
                for (int i = 0; i < count; ++i) next[i] += weight * term[i];
            }
        } else if (a.clip) {
            for (int i = 0; i < count; ++i) next[i] = c[FROM_X_0] * kept[i] + c[FROM_X] * x[i];
            if (a.own_eps)
                for (int i = 0; i < count; ++i) next[i] += c[FROM_OUT] * out[i];
        } else {
            for (int i = 0; i < count; ++i) next[i] = c[UNCLIPPED_FROM_X] * x[i] + c[UNCLIPPED_FROM_OUT] * out[i];
        }
        if (a.noisy) {
            const float* z = eps_of(a.eps, a.address, row, a.batch.n, first, count, eps);
            const float scale = c[a.memory ? int(step::SIGMA) : int(SIGMA)] * a.temperature.at(row);
            for (int i = 0; i < count; ++i) next[i] += scale * z[i];
        }
        a.x_s.write(at, count, next);
        if (a.prediction) a.prediction.write(at, count, kept);
    });
    return 0;
}

struct VlbTerms {
    Batch batch;
    Tensor x_0, x_t, output;
    Timesteps timesteps;
    i64 beta, learned, clip;
    double low, high, half_bin;
    double* terms;
};

// In bits per dimension. A variance that is not learned is that of a whole row: no exponential for each element
i64 noisestep_vlb_terms(const VlbTerms* given) {
    const VlbTerms a = *given;
    if (a.timesteps.outside()) return 1;
    const i64 n = a.batch.n, chunks = (n + CHUNK - 1) / CHUNK;
    const int size = chunk_size(n);
    std::vector<double> chunk_sums(a.batch.rows * chunks);
    double* sums = chunk_sums.data();
    over_chunks(a.batch, [=](i64 row, i64 chunk) {
        double nats[CHUNK], halves[CHUNK / 2];
        std::fill_n(nats, size, 0.0);
        const double* c = a.timesteps.row<double>(row, COLUMNS);
        const double half_log_beta = c[HALF_LOG_BETA], half_log_posterior = c[HALF_LOG_POSTERIOR];
        const double row_log_variance = 2 * (a.beta ? half_log_beta : half_log_posterior);
        const double row_ratio = 2 * half_log_posterior - row_log_variance;
        const double row_divergence = std::expm1(row_ratio) - row_ratio, row_precision = std::exp(-row_log_variance);
        const bool decoded = a.timesteps.at(row) == 1;
        over_tiles_of(row, chunk, n, [&](i64, i64 first, int count) {
            double images[TILE], noised[TILE], outputs[TILE], fractions[TILE], predicted[TILE], log_variance[TILE];
            const i64 at = row * n + first, out_at = at + (a.learned ? row * n : 0);
            const double* x_0 = a.x_0.read(at, count, images);
            const double* x = a.x_t.read(at, count, noised);
            const double* out = a.output.read(out_at, count, outputs);
            for (int i = 0; i < count; ++i) predicted[i] = c[X_0_FROM_X] * x[i] + c[X_0_FROM_OUT] * out[i];
            if (a.clip)
                for (int i = 0; i < count; ++i) {
                    // written so that a NaN stays one
                    predicted[i] = predicted[i] < a.low ? a.low : predicted[i];
                    predicted[i] = predicted[i] > a.high ? a.high : predicted[i];
                }
            std::fill_n(log_variance, count, row_log_variance);
            if (a.learned) {
                const double* fraction = a.output.read(out_at + n, count, fractions);
                for (int i = 0; i < count; ++i) {
                    const double share = (fraction[i] + 1) * 0.5;
                    log_variance[i] = 2 * (share * half_log_beta + (1 - share) * half_log_posterior);
                }
            }
            double* term = nats + (first - chunk * CHUNK);
            if (decoded) {
                for (int i = 0; i < count; ++i) {
                    const double mean = c[FROM_X_0] * predicted[i] + c[FROM_X] * x[i];
                    term[i] = -log_likelihood(x_0[i], mean, std::exp(-0.5 * log_variance[i]), a.half_bin);
                }
                return;
            }
            double square[TILE];
            for (int i = 0; i < count; ++i) {
                const double difference = c[FROM_X_0] * (x_0[i] - predicted[i]);
                square[i] = difference * difference;
            }
            if (!a.learned) {
                for (int i = 0; i < count; ++i) term[i] = (row_divergence + square[i] * row_precision) * 0.5;
                return;
            }
            for (int i = 0; i < count; ++i) {
                const double ratio = 2 * half_log_posterior - log_variance[i];
                term[i] = (exp_of(ratio) - 1 - ratio + square[i] * exp_of(-log_variance[i])) * 0.5;
            }
        });
        sums[row * chunks + chunk] = pairwise_sum(nats, size, halves);
    });
    const double bits = double(std::max<i64>(1, n)) * 0.6931471805599453;
    for (i64 row = 0; row < a.batch.rows; ++row) a.terms[row] = pairwise_sum_of(sums + row * chunks, chunks) / bits;
    return 0;
}

}  // extern "C"
