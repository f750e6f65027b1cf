/* Layer normalization (Ba et al. 2016, equation 4) of a sum of two, with the quantized rows of the result. */
#ifndef MINITX_NORM_H
#define MINITX_NORM_H

#include "quantize.h"

static float mean(const float *x, int c) {
    vf sum = vf_all(0);
    int i = 0;
    for (; i + LANES <= c; i += LANES) sum = sum + vf_load(x + i);
    float total = vf_sum(sum);
    for (; i < c; i++) total += x[i];
    return total / (float)c;
}

static float mean_square(const float *x, int c) {
    vf sum = vf_all(0);
    int i = 0;
    for (; i + LANES <= c; i += LANES) sum = vf_fma(vf_load(x + i), vf_load(x + i), sum);
    float total = vf_sum(sum);
    for (; i < c; i++) total += x[i] * x[i];
    return total / (float)c;
}

/* y = norm(x + add) * gain + bias over rows of c; `add` and `q` may be NULL. */
static void layernorm(float *y, uint8_t *q, const float *x, const float *add, const float *gain, const float *bias,
                      const int32_t *sizes, int c, float epsilon, int thread, int threads) {
    int rows = sizes[ROWS];
    for (int r = share(rows, thread, threads); r < share(rows, thread + 1, threads); r++) {
        size_t at = (size_t)r * (size_t)c;
        float *out = y + at;
        for (int i = 0; i < c; i++) out[i] = add ? x[at + (size_t)i] + add[at + (size_t)i] : x[at + (size_t)i];
        const float middle = mean(out, c);
        for (int i = 0; i < c; i++) out[i] -= middle;
        const float factor = 1 / __builtin_sqrtf(mean_square(out, c) + epsilon);
        for (int i = 0; i < c; i++) out[i] = out[i] * factor * gain[i] + bias[i];
        if (q) quantize_row(q + (size_t)r * quantized_stride(c), out, c);
    }
}

#endif
