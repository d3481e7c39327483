// Sums in an order that is fixed for good: noisestep.accelerated.backends.eager.pairwise_sum.

#pragma once

#include <utility>

#include "memory.h"

namespace {

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

}  // namespace
