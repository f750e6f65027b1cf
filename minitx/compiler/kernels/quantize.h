/* Rows of activations as int8, each with its own scale.
 *
 * A quantized row of k values: float scale, int32 sum of all values; from byte 64 int32 sums of each group of 32 values;
 * from the next multiple of 64 the int8 values, padded with zeros to a multiple of 64. scale = max|x| / 127, value = x / scale, half to even.
 */
#ifndef MINITX_QUANTIZE_H
#define MINITX_QUANTIZE_H

#include "simd.h"
#include "sizes.h"

enum { GROUP = 32, TOTAL_OFFSET = 4, SUMS_OFFSET = 64 };

static inline size_t values_offset(int k) {
    return SUMS_OFFSET + (size_t)rounded((int)sizeof(int32_t) * rounded(k, GROUP) / GROUP, 64);
}
static inline size_t quantized_stride(int k) { return values_offset(k) + (size_t)rounded(k, 64); }

/* max|x|; NaN if there is one: bits without the sign are in the order of the magnitudes, and those of NaN the largest. */
static float largest_magnitude(const float *x, int k) {
    vi best = vi_all(0);
    int i = 0;
    for (; i + LANES <= k; i += LANES) best = vi_max(best, vf_bits(vf_magnitude(vf_load(x + i))));
    best = vi_max(best, vf_bits(vf_magnitude(vf_load_part(x + i, k - i))));
    int32_t most = 0;
    for (int lane = 0; lane < LANES; lane++) most = best[lane] > most ? best[lane] : most;
    return load_float(&most);
}

/* The sum of each group, and that of all. */
static int32_t group_sums(int32_t *sums, const int8_t *q, int k) {
    int32_t total = 0;
    for (int i = 0; i < k; i += GROUP) {
        int32_t sum = 0;
        for (int j = 0; j < GROUP; j++) sum += q[i + j];
        *sums++ = sum;
        total += sum;
    }
    return total;
}

static void quantize_row(uint8_t *row, const float *x, int k) {
    const float tiny = 1e-35f; /* below it 127 / most is infinity: no more than zeros */
    const float most = largest_magnitude(x, k), scale = most <= tiny ? 0 : most / 127; /* NaN stays NaN */
    const vf inverse = vf_all(most > tiny ? 127 / most : 0);
    int8_t *q = (int8_t *)row + values_offset(k);
    memcpy(row, &scale, sizeof scale);
    int i = 0;
    for (; i + LANES <= k; i += LANES) vi_store_bytes(q + i, vf_round(vf_load(x + i) * inverse));
    if (i < k) vi_store_bytes(q + i, vf_round(vf_load_part(x + i, k - i) * inverse));
    memset(q + k, 0, (size_t)(rounded(k, 64) - k));
    const int32_t total = group_sums((int32_t *)(row + SUMS_OFFSET), q, k);
    memcpy(row + TOTAL_OFFSET, &total, sizeof total);
}

/* x (rows, k) to its quantized rows. */
static void quantize(uint8_t *q, const float *x, const int32_t *sizes, int k, int thread, int threads) {
    int rows = sizes[ROWS];
    for (int r = share(rows, thread, threads); r < share(rows, thread + 1, threads); r++)
        quantize_row(q + (size_t)r * quantized_stride(k), x + (size_t)r * (size_t)k, k);
}

#endif
