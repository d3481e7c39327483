// The ops on a CPU: the arithmetic of their PyTorch path, in the same order and with the same bits, in one pass over
// memory. build.py compiles this file, with contraction off; calls.py calls what is in extern "C".

#include <algorithm>
#include <cmath>
#include <vector>

#include "bound.h"
#include "memory.h"
#include "noise.h"
#include "sums.h"

namespace {

// the columns of a table: noisestep.accelerated.schedule.ReverseRow and StepRow
enum Column { NOISESTEP_COLUMNS, COLUMNS };
namespace step {
enum Column { NOISESTEP_STEP_COLUMNS, COLUMNS };
}
constexpr int MOST_HISTORY = NOISESTEP_MOST_HISTORY;

enum Target : i64 { EPS, X_0, V };

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
    // v has no meaning without noise, which clean data in the first row of a table do not have
    if (a.timesteps.t && a.timesteps.outside(((const float*)a.timesteps.table)[1] == 0)) return 1;
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
