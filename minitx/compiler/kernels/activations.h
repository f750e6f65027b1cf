/* The activation functions of a feed-forward layer. */
#ifndef MINITX_ACTIVATIONS_H
#define MINITX_ACTIVATIONS_H

#include "simd.h"

enum { IDENTITY, RELU, GELU, GELU_TANH, SILU, SIGMOID };

INLINE vf vf_sigmoid(vf x) { return 1.0f / (1.0f + vf_exp(-x)); }

/* x times the normal distribution function (Hendrycks and Gimpel 2016), as max(x, 0) - |x| erfc(|x| / sqrt(2)) / 2, which
 * loses nothing where x is very negative. erfc by Abramowitz and Stegun 1964, 7.1.26, within 1.5e-7. */
INLINE vf vf_gelu(vf x) {
    const vf a = vf_min(vf_all(16.0f), vf_magnitude(x)); /* beyond it erfc is 0, and infinity times 0 would be NaN */
    const vf t = 1.0f / vf_fma(a, vf_all(0.3275911f * 0.70710678f), vf_all(1.0f));
    vf p = vf_fma(vf_all(1.061405429f), t, vf_all(-1.453152027f));
    p = vf_fma(p, t, vf_all(1.421413741f));
    p = vf_fma(p, t, vf_all(-0.284496736f));
    p = vf_fma(p, t, vf_all(0.254829592f));
    return vf_max(vf_all(0), x) - a * 0.5f * p * t * vf_exp(a * a * -0.5f);
}

/* Its approximation x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2: (1 + tanh u) / 2 is the sigmoid of 2u. */
INLINE vf vf_gelu_tanh(vf x) { return x * vf_sigmoid(1.5957691f * vf_fma(x * x * x, vf_all(0.044715f), x)); }

INLINE vf vf_activation(vf x, int activation) {
    switch (activation) {
    case RELU: return vf_max(vf_all(0), x);
    case GELU: return vf_gelu(x);
    case GELU_TANH: return vf_gelu_tanh(x);
    case SILU: return x * vf_sigmoid(x);
    case SIGMOID: return vf_sigmoid(x);
    default: return x;
    }
}

/* In place; `count` is a multiple of LANES. */
static void activate(float *y, int count, int activation) {
    for (int i = 0; i < count; i += LANES) vf_store(y + i, vf_activation(vf_load(y + i), activation));
}

#endif
