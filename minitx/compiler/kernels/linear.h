/* y = activation(x W^T + b) over rows of x, with W (n, k) packed in panels of 16 of its rows.
 *
 * | scheme         | W, panel after panel                                                    | x                      |
 * |----------------|-------------------------------------------------------------------------|------------------------|
 * | f32, f16, bf16 | [k][16]                                                                 | float                  |
 * | int8, int8w    | [k/4][16][4] bytes, value + 128; behind all panels float scale[n]       | quantized; float       |
 * | int4           | [k/32][4][16][4] bytes, then [k/32]: 16 half scales, 16 bytes of zeros  | quantized              |
 *
 * n is padded to a multiple of 16 and k of int8 to one of 4, with zeros. A byte of int4 at [j][c][i] holds, of column
 * c, the values 8j + i of the group in the low and 8j + 4 + i in the high nibble; W = (nibble - zero) * scale.
 */
#ifndef MINITX_LINEAR_H
#define MINITX_LINEAR_H

#include "activations.h"
#include "tiles.h"

/* ---- from the sums of one row of a tile to values, in place: `count` columns from `column`, a multiple of LANES ---- */

typedef void Finish(const Matrix *m, const uint8_t *x, float *y, int column, int count);

INLINE vf bias_of(const Matrix *m, int column) { return m->bias ? vf_load(m->bias + column) : vf_all(0); }

static void finish_float(const Matrix *m, const uint8_t *x, float *y, int column, int count) {
    (void)x;
    for (int i = 0; i < count; i += LANES) vf_store(y + i, vf_load(y + i) + bias_of(m, column + i));
}

static void finish_int8w(const Matrix *m, const uint8_t *x, float *y, int column, int count) {
    (void)x;
    for (int i = 0; i < count; i += LANES)
        vf_store(y + i, vf_load(y + i) * vf_load(m->scale + column + i) + bias_of(m, column + i));
}

static void finish_int8(const Matrix *m, const uint8_t *x, float *y, int column, int count) {
    const float scale = load_float(x);
    const int32_t offset = DOT_OFFSET * load_int32(x + TOTAL_OFFSET);
    for (int i = 0; i < count; i += LANES) {
        const vf sum = vi_float(vi_load(y + i) - offset);
        vf_store(y + i, sum * (vf_load(m->scale + column + i) * scale) + bias_of(m, column + i));
    }
}

static void finish_int4(const Matrix *m, const uint8_t *x, float *y, int column, int count) {
    const float scale = load_float(x);
    for (int i = 0; i < count; i += LANES) vf_store(y + i, vf_load(y + i) * scale + bias_of(m, column + i));
}

/* ---- schemes ---- */

typedef struct {
    const Tiles *tiles;
    Finish *finish;
    int bytes;     /* of a weight; 0: packed in groups */
    int quantized; /* whether x is */
} Scheme;

static const Scheme scheme_f32 = {&tiles_f32, finish_float, 4, 0};
static const Scheme scheme_exact = {&tiles_exact, finish_float, 4, 0}; /* the same bits everywhere */
static const Scheme scheme_f16 = {&tiles_f16, finish_float, 2, 0};
static const Scheme scheme_bf16 = {&tiles_bf16, finish_float, 2, 0};
static const Scheme scheme_int8 = {&tiles_int8, finish_int8, 1, 1};
static const Scheme scheme_int8w = {&tiles_int8w, finish_int8w, 1, 0};
static const Scheme scheme_int4 = {&tiles_int4, finish_int4, 0, 1};

static size_t panel_bytes(const Scheme *s, int k) {
    if (!s->bytes) return (size_t)(k / GROUP) * (INT4_NIBBLES + INT4_SCALES);
    return (size_t)(s->bytes == 1 ? rounded(k, 4) : k) * PANEL * (size_t)s->bytes;
}

static Matrix matrix(const Scheme *s, const void *x, const uint8_t *w, const float *bias, int k, int n) {
    Matrix m = {.w = w, .x = x, .bias = bias, .panel = panel_bytes(s, k), .k = k, .n = n};
    m.stride = s->quantized ? quantized_stride(k) : sizeof(float) * (size_t)k;
    if (s->bytes == 1) m.scale = (const float *)(w + (size_t)(rounded(n, PANEL) / PANEL) * m.panel);
    return m;
}

/* ---- the work of a thread ---- */

/* Some panels, at most TILE_PANELS, and some rows, at most the tiles': columns[r][c] = x W^T + b. The next panels, from
 * number `ahead` of them on, are fetched. */
static void product(const Scheme *s, const Matrix *m, int panel, int panels, int row, int rows, int ahead,
                    float (*columns)[TILE_COLUMNS]) {
    const int wide = WIDE(rows, s->tiles->sums);
    const uint8_t *w = m->w + (size_t)panel * m->panel, *x = m->x + (size_t)row * m->stride;
    for (int p = 0, step; p < panels; p += step, ahead += step, w += (size_t)step * m->panel) {
        step = panels - p >= wide ? wide : 1;
        Tile *tile = s->tiles->tile[step != wide][rows - 1];
        const uint8_t *next = ahead < TILE_PANELS ? m->w + (size_t)(panel + panels + ahead) * m->panel : w;
        tile(m, w, x, next, (float (*)[TILE_COLUMNS])(columns[0] + p * PANEL));
    }
    for (int r = 0; r < rows; r++) s->finish(m, x + (size_t)r * m->stride, columns[r], panel * PANEL, panels * PANEL);
}

/* Panels are divided in blocks of a tile, so that each thread streams its own part of the weights; where there are few
 * of them, one by one, since the shares are to be equal. */
static int first_panel(int n, int thread, int threads) {
    const int panels = rounded(n, PANEL) / PANEL;
    const int unit = panels >= 8 * TILE_PANELS * threads ? TILE_PANELS : 1;
    const int first = share(rounded(panels, unit) / unit, thread, threads) * unit;
    return first < panels ? first : panels;
}

/* How many of the rows that are left the next part takes: all parts about the same, since a small tile is slow. */
static int next_rows(int left, int most) {
    const int tiles = rounded(left, most) / most;
    return rounded(left, tiles) / tiles;
}

enum { CACHED = 1 << 19 }; /* bytes of x */

/* What is done with a row of a product: `count` of its columns, from `column` on. `values` has room for whole panels. */
typedef void Take(void *to, const Matrix *m, int row, int column, int count, float *values);

/* The panels of this thread for the rows `from` to `to`, which are inside: a block of weights stays for all of them. */
INLINE void products_of(const Scheme *s, const Matrix *m, int from, int to, int thread, int threads, Take *take,
                        void *taken) {
    const int end = first_panel(m->n, thread + 1, threads), most = MOST_ROWS(s->tiles->sums);
    for (int panel = first_panel(m->n, thread, threads); panel < end; panel += TILE_PANELS) {
        const int panels = end - panel < TILE_PANELS ? end - panel : TILE_PANELS, column = panel * PANEL;
        const int count = m->n - column < panels * PANEL ? m->n - column : panels * PANEL;
        for (int row = from, ahead = 0, now; row < to; row += now, ahead += 2) {
            _Alignas(64) float columns[TILE_ROWS][TILE_COLUMNS];
            now = next_rows(to - row, most);
            product(s, m, panel, panels, row, now, ahead, columns);
            for (int r = 0; r < now; r++) take(taken, m, row + r, column, count, columns[r]);
        }
    }
}

/* This thread's share of x W^T + b, so many rows at a time that they stay in the second cache. */
INLINE void products(const Scheme *s, const Matrix *m, int rows, int thread, int threads, Take *take, void *taken) {
    const int most = rounded((int)(CACHED / m->stride) + 1, TILE_ROWS);
    for (int row = 0, now; row < rows; row += now) {
        now = next_rows(rows - row, most);
        products_of(s, m, row, row + now, thread, threads, take, taken);
    }
}

typedef struct {
    float *y;
    int activation;
} Activated;

static void take_linear(void *to, const Matrix *m, int row, int column, int count, float *values) {
    const Activated *out = to;
    if (out->activation != IDENTITY) activate(values, rounded(count, PANEL), out->activation);
    memcpy(out->y + (size_t)row * (size_t)m->n + column, values, sizeof(float) * (size_t)count);
}

#define LINEAR(SCHEME)                                                                                                \
    static void linear_##SCHEME(float *y, const void *x, const uint8_t *w, const float *bias, const int32_t *sizes,   \
                                int k, int n, int activation, int thread, int threads) {                              \
        const Matrix m = matrix(&scheme_##SCHEME, x, w, bias, k, n);                                                  \
        products(&scheme_##SCHEME, &m, sizes[ROWS], thread, threads, take_linear, &(Activated){y, activation});       \
    }

LINEAR(f32)
LINEAR(f16)
LINEAR(bf16)
LINEAR(int8)
LINEAR(int8w)
LINEAR(int4)

#endif
