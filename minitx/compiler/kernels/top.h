/* The likeliest of the logits x W^T + b and their log-probabilities, without a row of logits in memory.
 *
 * The columns are in TOP_CHUNKS chunks, of which each thread takes some: of a chunk the maximum, the sum of
 * e^(logit - maximum) and the best TOP candidates are kept, and then all are merged, so that the scores are the same to
 * the bit whatever the number of threads. Equal logits: the smaller id first. A NaN makes the scores of its row NaN.
 */
#ifndef MINITX_TOP_H
#define MINITX_TOP_H

#include "linear.h"

/* What is known of a row's logits so far. */
typedef struct {
    float largest, sum;
    int32_t count;
    int32_t ids[TOP_MAX];
    float values[TOP_MAX]; /* best first */
} Best;

enum { TOP_STRIDE = 704, TOP_CHUNKS = 32 };
_Static_assert(sizeof(Best) <= TOP_STRIDE, "a Best has to fit its place");

static inline Best *best_of(uint8_t *partial, int row, int chunk) {
    return (Best *)(partial + ((size_t)row * TOP_CHUNKS + (size_t)chunk) * TOP_STRIDE);
}

static void start(Best *best) {
    best->largest = -__builtin_inff();
    best->sum = 0;
    best->count = 0;
}

/* A candidate, whose id is larger than that of every one before it, among the best `top`, if it is one of them. */
static void propose(Best *best, float value, int32_t id, int top) {
    if (best->count == top && !(value > best->values[top - 1])) return;
    int i = best->count < top ? best->count++ : top - 1;
    for (; i > 0 && best->values[i - 1] < value; i--) {
        best->values[i] = best->values[i - 1];
        best->ids[i] = best->ids[i - 1];
    }
    best->values[i] = value;
    best->ids[i] = id;
}

/* e^(x - largest), for which -inf - -inf is to be 0 rather than NaN. */
static float relative(float x, float largest) { return x == -__builtin_inff() ? 0 : exponential(x - largest); }

/* The sum is relative to the largest; so it changes with it. */
static void raise_largest(Best *best, float largest) {
    if (!(largest > best->largest)) return;
    best->sum *= relative(best->largest, largest);
    best->largest = largest;
}

typedef struct {
    uint8_t *partial;
    int top, chunk;
} Candidates;

/* Takes some logits of one row. Few of them reach the best, and most of the time none. */
static void take_top(void *to, const Matrix *m, int row, int column, int count, float *logits) {
    (void)m;
    const Candidates *c = to;
    Best *best = best_of(c->partial, row, c->chunk);
    const int padded = rounded(count, PANEL);
    for (int i = count; i < padded; i++) logits[i] = -__builtin_inff();
    vf most = vf_all(-__builtin_inff()), sum = vf_all(0);
    for (int i = 0; i < padded; i += LANES) most = vf_max(vf_load(logits + i), most); /* NaN is passed over ... */
    const float largest = vf_largest(most);
    raise_largest(best, largest);
    const float offset = best->largest == -__builtin_inff() ? 0 : best->largest;
    for (int i = 0; i < padded; i += LANES) sum = sum + vf_exp(vf_load(logits + i) - offset); /* ... and comes here */
    best->sum += vf_sum(sum);
    if (best->count == c->top && !(largest > best->values[c->top - 1])) return;
    for (int i = 0; i < count; i++) propose(best, logits[i], column + i, c->top);
}

#define TOP_OF(SCHEME)                                                                                                \
    static void top_##SCHEME(uint8_t *partial, const void *x, const uint8_t *w, const float *bias,                    \
                             const int32_t *sizes, int k, int n, int thread, int threads) {                           \
        const Matrix m = matrix(&scheme_##SCHEME, x, w, bias, k, n);                                                  \
        const int end = share(TOP_CHUNKS, thread + 1, threads);                                                       \
        for (int chunk = share(TOP_CHUNKS, thread, threads); chunk < end; chunk++) {                                  \
            for (int r = 0; r < sizes[ROWS]; r++) start(best_of(partial, r, chunk));                                  \
            products(&scheme_##SCHEME, &m, sizes[ROWS], chunk, TOP_CHUNKS, take_top,                                  \
                     &(Candidates){partial, sizes[TOP], chunk});                                                      \
        }                                                                                                             \
    }

TOP_OF(f32)
TOP_OF(f16)
TOP_OF(bf16)
TOP_OF(int8)
TOP_OF(int8w)
TOP_OF(int4)

/* ln x for a normal x > 0: its exponent, and the series of the inverse hyperbolic tangent for the rest. */
static float logarithm(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 23) - 127;
    bits = (bits & 0x7fffff) | 0x3f800000;
    memcpy(&x, &bits, sizeof x);
    if (x > 1.41421356f) {
        x *= 0.5f;
        exponent++;
    }
    const float z = (x - 1) / (x + 1), s = z * z;
    return (float)exponent * 0.69314718f + 2 * z * (1 + s * (1.0f / 3 + s * (0.2f + s * (1.0f / 7 + s * (1.0f / 9)))));
}

/* The bests of a row's chunks together. They come in the order of their columns, so equal ones stay in that of ids. */
static void merge(Best *all, uint8_t *partial, int row, int top) {
    start(all);
    for (int chunk = 0; chunk < TOP_CHUNKS; chunk++) {
        const Best *part = best_of(partial, row, chunk);
        raise_largest(all, part->largest);
        all->sum += part->sum * relative(part->largest, all->largest);
        for (int i = 0; i < part->count; i++) propose(all, part->values[i], part->ids[i], top);
    }
}

/* The partial results of all chunks to ids and log-probabilities (rows, TOP), best first. */
static void top_merge(int32_t *ids, float *scores, const uint8_t *partial, const int32_t *sizes, int thread, int threads) {
    const int rows = sizes[ROWS], top = sizes[TOP];
    for (int r = share(rows, thread, threads); r < share(rows, thread + 1, threads); r++) {
        Best all;
        merge(&all, (uint8_t *)partial, r, top);
        const float total = all.sum == all.sum ? all.largest + logarithm(all.sum) : all.sum;
        memcpy(ids + (size_t)r * (size_t)top, all.ids, sizeof(int32_t) * (size_t)top);
        for (int i = 0; i < top; i++) scores[(size_t)r * (size_t)top + (size_t)i] = all.values[i] - total;
    }
}

#endif
