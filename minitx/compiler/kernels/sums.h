/* Sums of floats in one order everywhere: number i goes into lane i % 16, in order, and then halves of the lanes are added.
 */
#ifndef MINITX_SUMS_H
#define MINITX_SUMS_H

#include "simd.h"

/* The 16 lanes of a sum. */
typedef struct {
    vf part[VECTORS];
} Lanes;

/* The first lanes to the others, by halves. */
INLINE float lanes_sum(const Lanes *sum) {
#if defined(SIMD_AVX512)
    const __m256 low = _mm512_castps512_ps256(sum->part[0]), high = _mm512_extractf32x8_ps(sum->part[0], 1);
    const __m256 half = _mm256_add_ps(low, high);
#elif defined(SIMD_AVX2)
    const __m256 half = _mm256_add_ps(sum->part[0], sum->part[1]);
#endif
#if defined(SIMD_AVX512) || defined(SIMD_AVX2)
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
#else
    const vf quarter = (sum->part[0] + sum->part[2]) + (sum->part[1] + sum->part[3]);
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
#endif
}

/* The sum of x (n). */
INLINE float total(const float *x, int n) {
    Lanes sum = {{{0}}};
    int i = 0;
    for (; i + PANEL <= n; i += PANEL)
        UNROLL for (int v = 0; v < VECTORS; v++) sum.part[v] += vf_load(x + i + v * LANES);
    for (int v = 0; i < n; i += LANES, v++) sum.part[v] += vf_load_part(x + i, n - i < LANES ? n - i : LANES);
    return lanes_sum(&sum);
}

/* The sum of the products of a and b (n). */
INLINE float dot(const float *a, const float *b, int n) {
    Lanes sum = {{{0}}};
    int i = 0;
    for (; i + PANEL <= n; i += PANEL)
        UNROLL for (int v = 0; v < VECTORS; v++)
            sum.part[v] = vf_fma(vf_load(a + i + v * LANES), vf_load(b + i + v * LANES), sum.part[v]);
    for (int v = 0; i < n; i += LANES, v++) {
        const int count = n - i < LANES ? n - i : LANES;
        sum.part[v] = vf_fma(vf_load_part(a + i, count), vf_load_part(b + i, count), sum.part[v]);
    }
    return lanes_sum(&sum);
}

#endif
