/* Layer normalization (Ba et al. 2016, equation 4) of a sum of two, with the quantized rows of the result. */
#ifndef MINITX_NORM_H
#define MINITX_NORM_H

#include "quantize.h"
#include "sums.h"

static void layernorm_row(float *restrict y, const float *restrict x, const float *restrict add,
                          const float *restrict gain, const float *restrict bias, int c, float epsilon) {
    for (int i = 0; i < c; i++) y[i] = add ? x[i] + add[i] : x[i];
    const float middle = total(y, c) / (float)c;
    for (int i = 0; i < c; i++) y[i] -= middle;
    const float factor = 1 / __builtin_sqrtf(dot(y, y, c) / (float)c + epsilon);
    for (int i = 0; i < c; i++) y[i] = y[i] * factor * gain[i] + bias[i];
}

/* y = norm(x + add) * gain + bias over rows of c; `add` and `q` may be NULL. */
static void layernorm(float *y, uint8_t *q, const float *x, const float *add, const float *gain, const float *bias,
                      const int32_t *sizes, int c, float epsilon, int thread, int threads) {
    const int rows = sizes[ROWS];
    for (int r = share(rows, thread, threads); r < share(rows, thread + 1, threads); r++) {
        const size_t at = (size_t)r * (size_t)c;
        layernorm_row(y + at, x + at, add ? add + at : NULL, gain, bias, c, epsilon);
        if (q) quantize_row(q + (size_t)r * quantized_stride(c), y + at, c);
    }
}

#endif
