/* The likeliest of the logits x W^T + b and their log-probabilities, without a row of logits in memory. With a shortlist
 * W and b are those of the columns that were chosen; what a row's sentence does not allow is as if it were not there.
 *
 * The columns are in TOP_CHUNKS chunks, of which each thread takes some: of a chunk the maximum, the sum of
 * e^(logit - maximum) and the best TOP candidates are kept, and then all are merged, so that the scores are the same to
 * the bit whatever the number of threads. Of candidates a chunk keeps none that the thread's chunks before it beat, so
 * that soon few are. Equal logits: the smaller id first. A NaN makes the scores of its row NaN.
 */
#ifndef MINITX_TOP_H
#define MINITX_TOP_H

#include "shortlist.h"
#include "sums.h"

/* What is known of the logits of a row in a chunk so far. */
typedef struct {
    float largest, sums[PANEL];
    int32_t settled, count; /* whether there are already TOP candidates, here or in chunks before; those here */
    float floor;            /* if settled before there are TOP here: what a candidate has to be above */
    int32_t ids[TOP_MAX];
    float values[TOP_MAX]; /* best first */
} Best;

enum { TOP_STRIDE = 768, TOP_CHUNKS = 32 };
_Static_assert(sizeof(Best) <= TOP_STRIDE, "a Best has to fit its place");

static inline Best *best_of(uint8_t *partial, int row, int chunk) {
    return (Best *)(partial + ((size_t)row * TOP_CHUNKS + (size_t)chunk) * TOP_STRIDE);
}

static float last_of(const Best *best, int top) { return best->count == top ? best->values[top - 1] : best->floor; }

/* Nothing is known yet, but for the chunk before, which may be NULL. */
static void start(Best *best, const Best *before, int top) {
    best->largest = -__builtin_inff();
    best->settled = best->count = 0;
    best->floor = 0;
    memset(best->sums, 0, sizeof best->sums);
    if (!before || !before->settled) return;
    best->settled = 1;
    best->floor = last_of(before, top);
}

/* A candidate, whose id is larger than that of every one before it, among the best `top`, if it is one of them. */
static void propose(Best *best, float value, int32_t id, int top) {
    if (best->settled && !(value > last_of(best, top))) return;
    int i = best->count < top ? best->count++ : top - 1;
    best->settled |= best->count == top;
    for (; i > 0 && best->values[i - 1] < value; i--) {
        best->values[i] = best->values[i - 1];
        best->ids[i] = best->ids[i - 1];
    }
    best->values[i] = value;
    best->ids[i] = id;
}

/* e^(x - largest), for which -inf - -inf is to be 0 rather than NaN. */
static float relative(float x, float largest) { return x == -__builtin_inff() ? 0 : exponential(x - largest); }

/* The sums are relative to the largest; so they change with it. */
static void raise_largest(Best *best, float largest) {
    if (!(largest > best->largest)) return;
    const float factor = relative(best->largest, largest);
    for (int i = 0; i < PANEL; i++) best->sums[i] *= factor;
    best->largest = largest;
}

typedef struct {
    uint8_t *partial;
    int top, chunk;
    const uint16_t *allowed; /* NULL, or bits by sentence: see shortlist.h */
    const int32_t *sources;  /* the sentence of each row */
} Candidates;

/* Takes some logits of one row. Few of them reach the best, and most of the time none. */
static void take_top(void *to, const Matrix *m, int row, int column, int count, float *logits) {
    const Candidates *c = to;
    Best *best = best_of(c->partial, row, c->chunk);
    const int padded = rounded(count, PANEL), panels = rounded(m->n, PANEL) / PANEL;
    if (c->allowed)
        forbid(logits, padded / PANEL, c->allowed + (size_t)c->sources[row] * (size_t)panels + column / PANEL);
    for (int i = count; i < padded; i++) logits[i] = -__builtin_inff();
    vf most = vf_all(-__builtin_inff());
    Lanes sum;
    for (int i = 0; i < padded; i += LANES) most = vf_max(vf_load(logits + i), most); /* NaN is passed over ... */
    if (vf_exceeds(most, best->largest)) raise_largest(best, vf_largest(most));
    memcpy(&sum, best->sums, sizeof sum);
    const float offset = best->largest == -__builtin_inff() ? 0 : best->largest;
    for (int i = 0; i < padded; i += PANEL)
        UNROLL for (int v = 0; v < VECTORS; v++)
            sum.part[v] += vf_exp(vf_load(logits + i + v * LANES) - offset); /* ... and comes here */
    memcpy(best->sums, &sum, sizeof sum);
    if (best->settled && !vf_exceeds(most, last_of(best, c->top))) return;
    for (int i = 0; i < count; i++) propose(best, logits[i], column + i, c->top);
}

#define TOP_OF(SCHEME)                                                                                                \
    static void top_##SCHEME(uint8_t *partial, const void *x, const uint8_t *w, const float *bias,                    \
                             const uint8_t *chosen, const float *chosen_bias, const uint16_t *allowed,                \
                             const int32_t *sources, const int32_t *sizes, int k, int n, int thread, int threads) {   \
        const int few = sizes[CHOSEN];                                                                                \
        const Matrix m = few ? matrix(&scheme_##SCHEME, x, chosen, chosen_bias, k, few)                               \
                             : matrix(&scheme_##SCHEME, x, w, bias, k, n);                                            \
        const int first = share(TOP_CHUNKS, thread, threads), end = share(TOP_CHUNKS, thread + 1, threads);           \
        for (int chunk = first; chunk < end; chunk++) {                                                               \
            for (int r = 0; r < sizes[ROWS]; r++)                                                                     \
                start(best_of(partial, r, chunk), chunk > first ? best_of(partial, r, chunk - 1) : NULL, sizes[TOP]); \
            products(&scheme_##SCHEME, &m, sizes[ROWS], chunk, TOP_CHUNKS, take_top,                                  \
                     &(Candidates){partial, sizes[TOP], chunk, sizes[MASKED] ? allowed : NULL, sources});             \
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
    start(all, NULL, top);
    for (int chunk = 0; chunk < TOP_CHUNKS; chunk++) {
        const Best *part = best_of(partial, row, chunk);
        raise_largest(all, part->largest);
        const float factor = relative(part->largest, all->largest);
        for (int i = 0; i < PANEL; i++) all->sums[i] += part->sums[i] * factor;
        for (int i = 0; i < part->count; i++) propose(all, part->values[i], part->ids[i], top);
    }
}

/* The partial results of all chunks to ids and log-probabilities (rows, TOP), best first; where there are no more
 * columns, 0 and minus infinity. Columns that were chosen are `candidates`. */
static void top_merge(int32_t *ids, float *scores, const uint8_t *partial, const int32_t *candidates,
                      const int32_t *sizes, int thread, int threads) {
    const int rows = sizes[ROWS], top = sizes[TOP];
    for (int r = share(rows, thread, threads); r < share(rows, thread + 1, threads); r++) {
        Best all;
        merge(&all, (uint8_t *)partial, r, top);
        float sum = 0;
        for (int i = 0; i < PANEL; i++) sum += all.sums[i];
        const float total = sum == sum ? all.largest + logarithm(sum) : sum;
        for (int i = 0; i < top; i++) {
            const size_t at = (size_t)r * (size_t)top + (size_t)i;
            const int there = i < all.count;
            ids[at] = !there ? 0 : sizes[CHOSEN] ? candidates[all.ids[i]] : all.ids[i];
            scores[at] = (there ? all.values[i] : -__builtin_inff()) - total;
        }
    }
}

#endif
