/* Attention (Vaswani et al. 2017, equation 1) over rows that are not split by head: head h of a row of c = heads * d
 * is its columns from h * d. The largest score is taken off before the softmax.
 */
#ifndef MINITX_ATTEND_H
#define MINITX_ATTEND_H

#include "linear.h"
#include "sums.h"

enum { CHUNK = 4 }; /* vectors of a value that are summed at a time */

/* Scores to weights that lack only the factor that is returned, in place. There is room for a whole number of panels. */
static float softmax(float *scores, int count) {
    const int padded = rounded(count, PANEL);
    for (int i = count; i < padded; i++) scores[i] = -__builtin_inff();
    vf most = vf_load(scores);
    for (int i = LANES; i < padded; i += LANES) most = vf_max(vf_load(scores + i), most);
    const float largest = vf_largest(most);
    for (int i = 0; i < padded; i += LANES) vf_store(scores + i, vf_exp(vf_load(scores + i) - largest));
    return 1 / total(scores, padded);
}

/* ---- one query, for a decoder's step: a matrix times a vector ---- */

/* Asks for d floats from p on. */
INLINE void prefetch_floats(const float *p, int d) {
    for (int i = 0; i < d; i += 64 / (int)sizeof(float)) prefetch(p + i);
}

/* `vectors` vectors of the sum of the values, each times its weight, and all times `factor`. */
INLINE void weighted_sum(int vectors, float *out, const float *v, const size_t *places, const float *weights, int count,
                         float factor) {
    vf sum[CHUNK];
    UNROLL for (int i = 0; i < vectors; i++) sum[i] = vf_all(0);
    for (int t = 0; t < count; t++)
        UNROLL for (int i = 0; i < vectors; i++)
            sum[i] = vf_fma(vf_all(weights[t]), vf_load(v + places[t] + i * LANES), sum[i]);
    UNROLL for (int i = 0; i < vectors; i++) vf_store(out + i * LANES, sum[i] * factor);
}

/* One head of one query over `count` keys and values (d), of which number t stands at places[t] of k and v. */
static void attend_one(float *out, const float *q, const float *k, const float *v, const size_t *places, float *scores,
                       int count, int d) {
    const float root = 1 / __builtin_sqrtf((float)d);
    int i = 0;
    if (count == 0) memset(out, 0, sizeof(float) * (size_t)d);
    if (count == 0) return;
    for (int t = 0; t < count; t++) {
        prefetch_floats(v + places[t], d);
        scores[t] = dot(q, k + places[t], d) * root;
    }
    const float factor = softmax(scores, count);
    for (int t = 0; t < count; t++) prefetch_floats(k + places[t] + d, d); /* the next head's */
    for (; i + CHUNK * LANES <= d; i += CHUNK * LANES) weighted_sum(CHUNK, out + i, v + i, places, scores, count, factor);
    for (; i + LANES <= d; i += LANES) weighted_sum(1, out + i, v + i, places, scores, count, factor);
    for (; i < d; i++) {
        vf sum = vf_all(0);
        for (int t = 0; t < count; t++) sum = vf_fma(vf_all(scores[t]), vf_all(v[places[t] + (size_t)i]), sum);
        out[i] = sum[0] * factor;
    }
}

/* Room for places and scores of `keys` keys (see attend_scratch). */
static size_t *places_in(uint8_t *scratch) { return (size_t *)scratch; }
static float *scores_in(uint8_t *scratch, int keys) { return (float *)(scratch + sizeof(size_t) * (size_t)rounded(keys, PANEL)); }

/* The decoder's self-attention. Caches are (time, CAPACITY, c); at time t row r used row slots[t][r] of them, at
 * POSITION its own, where its key and value are stored first. */
static void attend_step(float *out, const float *q, const float *k, const float *v, float *kcache, float *vcache,
                        const int32_t *slots, const int32_t *sizes, int heads, int d, uint8_t *scratch, int thread,
                        int threads) {
    const int position = sizes[POSITION], tasks = sizes[ROWS] * heads;
    const size_t capacity = (size_t)sizes[CAPACITY], c = (size_t)heads * (size_t)d;
    size_t *places = places_in(scratch);
    for (int task = share(tasks, thread, threads); task < share(tasks, thread + 1, threads); task++) {
        const size_t r = (size_t)(task / heads), column = (size_t)(task % heads) * (size_t)d, at = r * c + column;
        for (int t = 0; t < position; t++)
            places[t] = ((size_t)t * capacity + (size_t)slots[(size_t)t * capacity + r]) * c + column;
        places[position] = ((size_t)position * capacity + r) * c + column;
        memcpy(kcache + places[position], k + at, sizeof(float) * (size_t)d);
        memcpy(vcache + places[position], v + at, sizeof(float) * (size_t)d);
        attend_one(out + at, q + at, kcache, vcache, places, scores_in(scratch, position + 1), position + 1, d);
    }
}

/* Row r looks at the tokens of sentence sources[r], which are rows starts[s] to starts[s + 1] of k and v. */
static void attend_cross(float *out, const float *q, const float *k, const float *v, const int32_t *sources,
                         const int32_t *starts, const int32_t *sizes, int heads, int d, uint8_t *scratch, int thread,
                         int threads) {
    const int tasks = sizes[ROWS] * heads;
    const size_t c = (size_t)heads * (size_t)d;
    size_t *places = places_in(scratch);
    for (int task = share(tasks, thread, threads); task < share(tasks, thread + 1, threads); task++) {
        const size_t r = (size_t)(task / heads), column = (size_t)(task % heads) * (size_t)d, at = r * c + column;
        const int first = starts[sources[r]], count = starts[sources[r] + 1] - first;
        for (int t = 0; t < count; t++) places[t] = (size_t)(first + t) * c + column;
        attend_one(out + at, q + at, k, v, places, scores_in(scratch, count), count, d);
    }
}

/* ---- many queries, for an encoder: products by tiles, over packed keys and values ---- */

/* What a thread keeps in its scratch to attend to `keys` keys of d. */
typedef struct {
    float *keys;   /* the transposed, packed as (keys, d) */
    float *values; /* packed as (d, keys) */
    float *scores; /* [TILE_ROWS][keys in whole panels] */
    float *out;    /* [TILE_ROWS][d in whole panels] */
} Room;

static size_t keys_floats(int keys, int d) { return (size_t)rounded(keys, PANEL) * (size_t)d; }
static size_t values_floats(int keys, int d) { return (size_t)keys * (size_t)rounded(d, PANEL); }

static Room room(uint8_t *scratch, int keys, int d) {
    Room it;
    it.keys = (float *)scratch;
    it.values = it.keys + keys_floats(keys, d);
    it.scores = it.values + values_floats(keys, d);
    it.out = it.scores + TILE_ROWS * (size_t)rounded(keys, PANEL);
    return it;
}

/* Bytes that one thread needs to attend to at most `keys` keys; those of a step (12 a key) are fewer than an encoder's. */
static size_t attend_scratch(int keys, int d) {
    const size_t rows = TILE_ROWS * (size_t)(rounded(keys, PANEL) + rounded(d, PANEL));
    return sizeof(float) * (keys_floats(keys, d) + values_floats(keys, d) + rows);
}

/* Rows of d floats, c apart, as the panels of a matrix (count, d), times `factor`. */
static void pack_keys(float *restrict packed, const float *restrict k, int count, size_t c, int d, float factor) {
    for (int j = 0; j < count; j += PANEL) {
        const int columns = count - j < PANEL ? count - j : PANEL;
        for (int i = 0; i < d; i++, packed += PANEL) {
            for (int p = 0; p < columns; p++) packed[p] = k[(size_t)(j + p) * c + (size_t)i] * factor;
            for (int p = columns; p < PANEL; p++) packed[p] = 0;
        }
    }
}

/* The same as those of a matrix (d, count). */
static void pack_values(float *restrict packed, const float *restrict v, int count, size_t c, int d) {
    for (int i = 0; i < d; i += PANEL) {
        const int columns = d - i < PANEL ? d - i : PANEL;
        for (int j = 0; j < count; j++, packed += PANEL) {
            for (int p = 0; p < columns; p++) packed[p] = v[(size_t)j * c + (size_t)(i + p)];
            for (int p = columns; p < PANEL; p++) packed[p] = 0;
        }
    }
}

/* y (rows, n in whole panels) = x (rows, k), whose rows are `stride` apart, times a packed matrix (n, k). */
static void multiply(float *y, const float *x, size_t stride, const float *packed, int rows, int k, int n) {
    const Matrix m = {.w = (const uint8_t *)packed, .x = (const uint8_t *)x, .panel = sizeof(float) * (size_t)k * PANEL,
                      .stride = sizeof(float) * stride, .k = k, .n = n};
    const int count = rounded(n, PANEL) / PANEL;
    for (int panel = 0; panel < count; panel += TILE_PANELS) {
        _Alignas(64) float columns[TILE_ROWS][TILE_COLUMNS];
        const int panels = count - panel < TILE_PANELS ? count - panel : TILE_PANELS;
        product(&scheme_exact, &m, panel, panels, 0, rows, TILE_PANELS, columns);
        for (int r = 0; r < rows; r++)
            memcpy(y + ((size_t)r * (size_t)count + (size_t)panel) * PANEL, columns[r], sizeof(float) * (size_t)panels * PANEL);
    }
}

/* One head of one sentence of `count` tokens, queries `from` to `to`; rows of all four are c apart. */
static void attend_head(float *out, const float *q, const float *k, const float *v, size_t c, int d, int count, int from,
                        int to, const Room *room) {
    const size_t keys = (size_t)rounded(count, PANEL), width = (size_t)rounded(d, PANEL);
    pack_keys(room->keys, k, count, c, d, 1 / __builtin_sqrtf((float)d));
    pack_values(room->values, v, count, c, d);
    for (int row = from, rows; row < to; row += rows) {
        float factor[TILE_ROWS];
        rows = next_rows(to - row, MOST_ROWS(FLOAT_SUMS));
        multiply(room->scores, q + (size_t)row * c, c, room->keys, rows, d, count);
        for (int r = 0; r < rows; r++) factor[r] = softmax(room->scores + (size_t)r * keys, count);
        multiply(room->out, room->scores, keys, room->values, rows, count, d);
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < d; i++)
                out[(size_t)(row + r) * c + (size_t)i] = room->out[(size_t)r * width + (size_t)i] * factor[r];
    }
}

/* Self-attention inside each of SENTENCES packed sentences. Tasks are heads of sentences, and where these are few the
 * queries of each are divided as well, though each part packs all keys and values. */
static void attend_encoder(float *out, const float *q, const float *k, const float *v, const int32_t *starts,
                           const int32_t *sizes, int heads, int d, uint8_t *scratch, int thread, int threads) {
    const int pairs = sizes[SENTENCES] * heads, parts = pairs % threads && pairs < 4 * threads ? threads : 1;
    const int tasks = pairs * parts;
    const size_t c = (size_t)heads * (size_t)d;
    for (int task = share(tasks, thread, threads); task < share(tasks, thread + 1, threads); task++) {
        const int pair = task / parts, part = task % parts, first = starts[pair / heads];
        const int count = starts[pair / heads + 1] - first;
        const int from = share(count, part, parts), to = share(count, part + 1, parts);
        const size_t at = (size_t)first * c + (size_t)(pair % heads) * (size_t)d;
        const Room mine = room(scratch, count, d);
        if (from < to) attend_head(out + at, q + at, k + at, v + at, c, d, count, from, to, &mine);
    }
}

#endif
