/* Attention (Vaswani et al. 2017, equation 1) over rows that are not split by head: head h of a row of c = heads * d
 * is its columns from h * d. Softmax is taken after the largest score was taken off.
 */
#ifndef MINITX_ATTEND_H
#define MINITX_ATTEND_H

#include "linear.h"

enum { QUERIES = 6, QUERY_BLOCK = 48 };

/* Bytes that one thread needs to attend to `keys` keys: for the encoder packed keys and values and a block of scores. */
static size_t attend_scratch(int keys, int d) {
    size_t padded = (size_t)rounded(keys, TILE_COLUMNS), width = (size_t)rounded(d, TILE_COLUMNS);
    return 4 * (padded * (size_t)d + padded * width + QUERIES * (padded + width + TILE_COLUMNS)) + 64;
}

INLINE float dot(const float *a, const float *b, int d) {
    vf sum = vf_all(0);
    int i = 0;
    for (; i + LANES <= d; i += LANES) sum = vf_fma(vf_load(a + i), vf_load(b + i), sum);
    float total = vf_sum(sum);
    for (; i < d; i++) total += a[i] * b[i];
    return total;
}

/* Scores to weights, in place; `count` of them, in room for a whole number of panels. Returns one over their sum. */
static float exponentials(float *scores, int count) {
    int padded = rounded(count, PANEL);
    for (int i = count; i < padded; i++) scores[i] = -__builtin_inff();
    vf most = vf_load(scores), sum = vf_all(0);
    for (int i = LANES; i < padded; i += LANES) most = vf_max(vf_load(scores + i), most);
    vf largest = vf_all(vf_largest(most));
    for (int i = 0; i < padded; i += LANES) {
        vf e = vf_exp(vf_load(scores + i) - largest);
        vf_store(scores + i, e);
        sum = sum + e;
    }
    return 1 / vf_sum(sum);
}

INLINE void add_scaled(float *y, const float *x, float weight, int d) {
    for (int i = 0; i < d; i++) y[i] += weight * x[i];
}

/* One query head over `count` keys; key t stands at key(t). */
#define ATTEND_ONE(out, q, d, count, scores, key_of, value_of)                          \
    do {                                                                                \
        const float root = 1 / __builtin_sqrtf((float)(d));                             \
        for (int t = 0; t < (count); t++) (scores)[t] = dot(q, key_of(t), d) * root;    \
        const float inverse = exponentials(scores, count);                              \
        for (int i = 0; i < (d); i++) (out)[i] = 0;                                     \
        for (int t = 0; t < (count); t++) add_scaled(out, value_of(t), (scores)[t] * inverse, d); \
    } while (0)

/* The decoder's self-attention. Caches are (time, CAPACITY, c); at time t row r used row slots[t][r] of them, at
 * POSITION its own, where its key and value are stored first. */
static void attend_step(float *out, const float *q, const float *k, const float *v, float *kcache, float *vcache,
                        const int32_t *slots, const int32_t *sizes, int heads, int d, uint8_t *scratch, int thread,
                        int threads) {
    const int position = sizes[POSITION], capacity = sizes[CAPACITY], c = heads * d, tasks = sizes[ROWS] * heads;
    float *scores = (float *)scratch;
    for (int task = share(tasks, thread, threads); task < share(tasks, thread + 1, threads); task++) {
        const int r = task / heads, column = task % heads * d;
        const size_t at = (size_t)r * (size_t)c + (size_t)column;
        const size_t here = ((size_t)position * (size_t)capacity + (size_t)r) * (size_t)c + (size_t)column;
        memcpy(kcache + here, k + at, sizeof(float) * (size_t)d);
        memcpy(vcache + here, v + at, sizeof(float) * (size_t)d);
#define PLACE(t) (((size_t)(t) * (size_t)capacity + (size_t)((t) < position ? slots[(size_t)(t) * (size_t)capacity + (size_t)r] : r)) * (size_t)c + (size_t)column)
#define KEY(t) (kcache + PLACE(t))
#define VALUE(t) (vcache + PLACE(t))
        ATTEND_ONE(out + at, q + at, d, position + 1, scores, KEY, VALUE);
#undef PLACE
#undef KEY
#undef VALUE
    }
}

/* Row r looks at the tokens of sentence sources[r], which are rows starts[s] to starts[s + 1] of k and v. */
static void attend_cross(float *out, const float *q, const float *k, const float *v, const int32_t *sources,
                         const int32_t *starts, const int32_t *sizes, int heads, int d, uint8_t *scratch, int thread,
                         int threads) {
    const int c = heads * d, tasks = sizes[ROWS] * heads;
    float *scores = (float *)scratch;
    for (int task = share(tasks, thread, threads); task < share(tasks, thread + 1, threads); task++) {
        const int r = task / heads, column = task % heads * d, first = starts[sources[r]];
        const int count = starts[sources[r] + 1] - first;
        const size_t at = (size_t)r * (size_t)c + (size_t)column;
#define KEY(t) (k + (size_t)(first + (t)) * (size_t)c + column)
#define VALUE(t) (v + (size_t)(first + (t)) * (size_t)c + column)
        ATTEND_ONE(out + at, q + at, d, count, scores, KEY, VALUE);
#undef KEY
#undef VALUE
    }
}

/* A matrix of `columns` rows of c floats, of which d are taken, packed for `f32_tiles` as (columns, d). */
static void pack_keys(float *packed, const float *k, int count, int c, int d, float factor) {
    for (int j = 0; j < rounded(count, TILE_COLUMNS); j++)
        for (int i = 0; i < d; i++)
            packed[((size_t)(j / PANEL) * (size_t)d + (size_t)i) * PANEL + (size_t)(j % PANEL)] =
                j < count ? k[(size_t)j * (size_t)c + (size_t)i] * factor : 0;
}

/* The transposed of the same, packed as (d, columns). */
static void pack_values(float *packed, const float *v, int count, int c, int d) {
    for (int i = 0; i < rounded(d, TILE_COLUMNS); i++)
        for (int j = 0; j < count; j++)
            packed[((size_t)(i / PANEL) * (size_t)count + (size_t)j) * PANEL + (size_t)(i % PANEL)] =
                i < d ? v[(size_t)j * (size_t)c + (size_t)i] : 0;
}

/* x (rows, k) with row stride `stride` times a packed matrix (n, k), into y with row stride `ldy`. */
static void product(float *y, int ldy, const float *x, int stride, const float *packed, int rows, int k, int n) {
    Matrix m = {(const uint8_t *)packed, (const uint8_t *)x, NULL, NULL, NULL, sizeof(float) * (size_t)k * PANEL,
                sizeof(float) * (size_t)stride, k, n};
    for (int panel = 0; panel * PANEL < n; panel += TILE_PANELS) {
        _Alignas(64) float tile[TILE_ROWS][TILE_COLUMNS];
        int panels = (rounded(n, PANEL) / PANEL) - panel;
        panels = panels < TILE_PANELS ? panels : TILE_PANELS;
        block(&m, f32_tiles, scaled_f32, panel, panels, 0, rows, tile);
        for (int r = 0; r < rows; r++)
            memcpy(y + (size_t)r * (size_t)ldy + panel * PANEL, tile[r], sizeof(float) * (size_t)(panels * PANEL));
    }
}

/* One head of one sentence, queries `from` to `to`: both products by tiles, over packed keys and values. */
static void attend_head(float *out, const float *q, const float *k, const float *v, int count, int from, int to, int c,
                        int d, float *scratch) {
    const int padded = rounded(count, TILE_COLUMNS), width = rounded(d, TILE_COLUMNS);
    float *keys = scratch, *values = keys + (size_t)padded * (size_t)d, *scores = values + (size_t)padded * (size_t)width;
    float *sums = scores + (size_t)QUERIES * (size_t)padded;
    pack_keys(keys, k, count, c, d, 1 / __builtin_sqrtf((float)d));
    pack_values(values, v, count, c, d);
    for (int row = from, rows; row < to; row += rows) {
        float inverse[QUERIES];
        rows = to - row < QUERIES ? to - row : QUERIES;
        product(scores, padded, q + (size_t)row * (size_t)c, c, keys, rows, d, count);
        for (int r = 0; r < rows; r++) inverse[r] = exponentials(scores + (size_t)r * (size_t)padded, count);
        product(sums, width, scores, padded, values, rows, count, d);
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < d; i++) out[(size_t)(row + r) * (size_t)c + (size_t)i] = sums[(size_t)r * (size_t)width + (size_t)i] * inverse[r];
    }
}

/* Self-attention inside each of SENTENCES packed sentences. Tasks are heads of sentences, and where these are few the
 * queries of each are divided as well. */
static void attend_encoder(float *out, const float *q, const float *k, const float *v, const int32_t *starts,
                           const int32_t *sizes, int heads, int d, uint8_t *scratch, int thread, int threads) {
    const int c = heads * d, pairs = sizes[SENTENCES] * heads;
    const int parts = pairs % threads && pairs < 4 * threads ? threads : 1, tasks = pairs * parts;
    for (int task = share(tasks, thread, threads); task < share(tasks, thread + 1, threads); task++) {
        const int pair = task / parts, part = task % parts, first = starts[pair / heads];
        const int count = starts[pair / heads + 1] - first;
        const size_t at = (size_t)first * (size_t)c + (size_t)(pair % heads * d);
        attend_head(out + at, q + at, k + at, v + at, count, share(count, part, parts), share(count, part + 1, parts), c, d, (float *)scratch);
    }
}

#endif
