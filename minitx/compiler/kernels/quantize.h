/* Rows of activations as int8, each with its own scale.
 *
 * A quantized row of k values: float scale, at 64 the int32 sums of each group of 32, then from the next multiple of 64
 * int8 values, padded with zeros to a multiple of 64. scale = max|x| / 127, value = x / scale rounded half to even.
 */
#ifndef MINITX_QUANTIZE_H
#define MINITX_QUANTIZE_H

#include "simd.h"
#include "sizes.h"

enum { GROUP = 32 };

static inline size_t values_offset(int k) { return 64 + (size_t)rounded(4 * rounded(k, GROUP) / GROUP, 64); }
static inline size_t quantized_stride(int k) { return values_offset(k) + (size_t)rounded(k, 64); }

static float largest_magnitude(const float *x, int k) {
    vf best = vf_all(0);
    float last = 0;
    int i = 0;
    for (; i + LANES <= k; i += LANES) {
        vf v = vf_load(x + i);
        best = vf_max(vf_max(v, vf_all(0) - v), best);
    }
    for (; i < k; i++) last = x[i] > last ? x[i] : -x[i] > last ? -x[i] : last;
    float most = vf_largest(best);
    return most > last ? most : last;
}

static void quantize_row(uint8_t *row, const float *x, int k) {
    int8_t *q = (int8_t *)row + values_offset(k);
    float most = largest_magnitude(x, k), scale = most / 127;
    /* a NaN is not seen by the comparisons above, but by a sum; infinity times 0 is one as well */
    vf poison = vf_all(0);
    int i = 0;
    const vf inverse = vf_all(most > 0 ? 127 / most : 0);
    for (; i + LANES <= k; i += LANES) {
        vf v = vf_load(x + i);
        int32_t lane[LANES];
        poison = vf_fma(v, vf_all(0), poison);
        vi_store(lane, vf_round(vf_max(vf_min(v * inverse, vf_all(127)), vf_all(-127))));
        for (int j = 0; j < LANES; j++) q[i + j] = (int8_t)lane[j];
    }
    float rest[LANES] = {0};
    int32_t lane[LANES];
    for (int j = 0; i + j < k; j++) rest[j] = x[i + j];
    poison = vf_fma(vf_load(rest), vf_all(0), poison);
    vi_store(lane, vf_round(vf_max(vf_min(vf_load(rest) * inverse, vf_all(127)), vf_all(-127))));
    for (int j = 0; i + j < rounded(k, 64); j++) q[i + j] = j < LANES ? (int8_t)lane[j] : 0;
    scale += vf_sum(poison);
    memcpy(row, &scale, sizeof scale);
    int32_t *sums = (int32_t *)(row + 64);
    for (int g = 0; g * GROUP < k; g++) {
        int32_t sum = 0;
        for (int j = 0; j < GROUP; j++) sum += q[g * GROUP + j];
        sums[g] = sum;
    }
}

/* x (rows, k) to its quantized rows. */
static void quantize(uint8_t *q, const float *x, const int32_t *sizes, int k, int thread, int threads) {
    int rows = sizes[ROWS];
    for (int r = share(rows, thread, threads); r < share(rows, thread + 1, threads); r++)
        quantize_row(q + (size_t)r * quantized_stride(k), x + (size_t)r * (size_t)k, k);
}

#endif
