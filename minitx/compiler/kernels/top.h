/* The likeliest of the logits x W^T + b and their log-probabilities, without a row of logits in memory.
 *
 * Each thread keeps of its own columns the maximum, the sum of e^(logit - maximum) and the best TOP candidates; then
 * they are merged. Equal logits: the smaller id first.
 */
#ifndef MINITX_TOP_H
#define MINITX_TOP_H

#include "linear.h"

typedef struct {
    float largest, sum;
    int32_t count;
    int32_t ids[TOP_MAX];
    float values[TOP_MAX]; /* best first */
} Best;

enum { TOP_STRIDE = 704 };
_Static_assert(sizeof(Best) <= TOP_STRIDE, "a Best has to fit its place");

static inline Best *best_of(uint8_t *partial, int row, int thread) {
    return (Best *)(partial + ((size_t)row * MAX_THREADS + (size_t)thread) * TOP_STRIDE);
}

/* Takes a candidate, whose id is larger than that of every one before it, among the best `top`. */
static void insert(Best *best, float value, int32_t id, int top) {
    int i = best->count < top ? best->count++ : top - 1;
    for (; i > 0 && best->values[i - 1] < value; i--) {
        best->values[i] = best->values[i - 1];
        best->ids[i] = best->ids[i - 1];
    }
    best->values[i] = value;
    best->ids[i] = id;
}

static void scan(Best *best, float *logits, int columns, int column, int top) {
    int padded = rounded(columns, PANEL);
    for (int i = columns; i < padded; i++) logits[i] = -__builtin_inff();
    vf most = vf_load(logits);
    for (int i = LANES; i < padded; i += LANES) most = vf_max(vf_load(logits + i), most);
    float largest = vf_largest(most);
    float threshold = best->count < top ? -__builtin_inff() : best->values[top - 1];
    if (largest > threshold || best->count < top)
        for (int i = 0; i < columns; i++) {
            if (best->count < top || logits[i] > best->values[top - 1]) insert(best, logits[i], column + i, top);
        }
    if (largest > best->largest) {
        float scale[LANES];
        vf_store(scale, vf_exp(vf_all(best->largest > -1e38f ? best->largest - largest : -87)));
        best->sum *= scale[0];
        best->largest = largest;
    }
    vf sum = vf_all(0), offset = vf_all(best->largest > -1e38f ? best->largest : 0);
    for (int i = 0; i < padded; i += LANES) sum = sum + vf_exp(vf_load(logits + i) - offset);
    best->sum += vf_sum(sum);
}

INLINE void top(uint8_t *partial, const Matrix *m, const Tile (*tiles)[TILE_ROWS],
                void (*scaled)(const Matrix *, const uint8_t *, float *, int, int),
                int rows_max, const int32_t *sizes, int thread, int threads) {
    for (int r = 0; r < sizes[ROWS]; r++) {
        Best *best = best_of(partial, r, thread);
        best->largest = -__builtin_inff();
        best->sum = 0;
        best->count = 0;
    }
    int end = first_panel(m->n, thread + 1, threads);
    for (int panel = first_panel(m->n, thread, threads); panel < end; panel += TILE_PANELS) {
        int panels = end - panel < TILE_PANELS ? end - panel : TILE_PANELS;
        int left = m->n - panel * PANEL, columns = left < panels * PANEL ? left : panels * PANEL;
        for (int row = 0, rows; row < sizes[ROWS]; row += rows) {
            _Alignas(64) float tile[TILE_ROWS][TILE_COLUMNS];
            rows = sizes[ROWS] - row < rows_max ? sizes[ROWS] - row : rows_max;
            block(m, tiles, scaled, panel, panels, row, rows, tile);
            for (int r = 0; r < rows; r++) scan(best_of(partial, row + r, thread), tile[r], columns, panel * PANEL, sizes[TOP]);
        }
    }
}

#define TOP_OF(SCHEME, BYTES, QUANTIZED, SCALED, MAX)                                                                 \
    static void top_##SCHEME(uint8_t *partial, const void *x, const uint8_t *w, const float *bias,                    \
                             const int32_t *sizes, int k, int n, int thread, int threads) {                           \
        Matrix m = matrix(x, w, bias, k, n, BYTES, QUANTIZED);                                                        \
        top(partial, &m, SCHEME##_tiles, SCALED, MAX, sizes, thread, threads);                                        \
    }

TOP_OF(f32, 4, 0, scaled_f32, FLOAT_ROWS_MAX)
TOP_OF(f16, 2, 0, scaled_f32, FLOAT_ROWS_MAX)
TOP_OF(bf16, 2, 0, scaled_f32, FLOAT_ROWS_MAX)
TOP_OF(int8, 1, 1, scaled_int8, ROWS_MAX)
TOP_OF(int8w, 1, 0, scaled_int8w, ROWS_MAX)
TOP_OF(int4, 0, 1, scaled_int4, 2)

/* ln x for x > 0, by its exponent and the series of atanh. */
static float logarithm(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 23) - 127;
    bits = (bits & 0x7fffff) | 0x3f800000;
    memcpy(&x, &bits, sizeof x);
    if (x > 1.41421356f) { x *= 0.5f; exponent++; }
    float z = (x - 1) / (x + 1), s = z * z;
    return (float)exponent * 0.69314718f + 2 * z * (1 + s * (1.0f / 3 + s * (0.2f + s * (1.0f / 7 + s * (1.0f / 9)))));
}

/* The partial results of all threads to ids and log-probabilities (rows, TOP), best first. */
static void top_merge(int32_t *ids, float *scores, uint8_t *partial, const int32_t *sizes, int thread, int threads) {
    int rows = sizes[ROWS], top = sizes[TOP];
    for (int r = share(rows, thread, threads); r < share(rows, thread + 1, threads); r++) {
        Best all = {.largest = -__builtin_inff()};
        for (int t = 0; t < threads; t++) {
            const Best *part = best_of(partial, r, t);
            if (part->largest > all.largest) all.largest = part->largest;
        }
        float sum = 0;
        for (int t = 0; t < threads; t++) {
            const Best *part = best_of(partial, r, t);
            float weight[LANES];
            vf_store(weight, vf_exp(vf_all(part->largest > -1e38f ? part->largest - all.largest : -87)));
            sum += part->sum * weight[0];
            for (int i = 0; i < part->count; i++)
                if (all.count < top || part->values[i] > all.values[top - 1]) insert(&all, part->values[i], part->ids[i], top);
        }
        float total = sum == sum ? all.largest + logarithm(sum) : sum; /* NaN in one logit is NaN in all */
        for (int i = 0; i < top; i++) {
            ids[(size_t)r * (size_t)top + (size_t)i] = all.ids[i];
            scores[(size_t)r * (size_t)top + (size_t)i] = all.values[i] - total;
        }
    }
}

#endif
