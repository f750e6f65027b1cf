/* The innermost loops of a matrix product: R rows of x by P panels of weights, sums in registers.
 *
 * They stand alone: pointers in, sums out, and nothing else, or the compiler spills the sums; scale, bias and activation
 * are a second loop over the tile (linear.h). Each scheme is one inline function of constant R and P, of which TILES makes
 * a function for each number of rows, by as many panels as registers hold and by one.
 */
#ifndef MINITX_TILES_H
#define MINITX_TILES_H

#include "quantize.h"

enum { TILE_ROWS = 8, TILE_PANELS = 3, TILE_COLUMNS = TILE_PANELS * PANEL, TILE_VECTORS = TILE_PANELS * VECTORS };
enum { INT4_NIBBLES = 256, INT4_SCALES = 48, INT4_ZEROS = 32 }; /* bytes of a group in a panel; where zero points are */
enum { F32, F16, BF16, EXACT }; /* how float weights are stored; EXACT: as in F32, and rounded once everywhere */

/* A packed matrix, and what a product reads beside it. */
typedef struct {
    const uint8_t *w, *x;
    const float *bias, *scale; /* NULL, or of each column */
    size_t panel, stride;      /* bytes of a panel, and from one row of x to the next */
    int k, n;
} Matrix;

/* Sums for the panels from w and the rows from x; int8 gives the bits of int32. Two panels are fetched from `ahead`
 * meanwhile: the weights of the next block, for which memory would else have nothing to do while rows go by. */
typedef void Tile(const Matrix *m, const uint8_t *w, const uint8_t *x, const uint8_t *ahead, float (*y)[TILE_COLUMNS]);

INLINE void fetch(int R, const uint8_t *ahead, size_t panel) {
    if (R == 1) return; /* memory does not rest */
    prefetch(ahead);
    prefetch(ahead + panel);
}

INLINE vf load_weights(int format, const uint8_t *w, size_t i) {
    return format == F16 ? vf_load_half(w + 2 * i) : format == BF16 ? vf_load_bfloat(w + 2 * i) : vf_load(w + 4 * i);
}

INLINE void tile_float(int format, int R, int P, const Matrix *m, const uint8_t *restrict w, const uint8_t *restrict x,
                       const uint8_t *ahead, float (*restrict y)[TILE_COLUMNS]) {
    const int V = P * VECTORS, k = m->k;
    const size_t panel = m->panel, stride = m->stride, bytes = (format == F16 || format == BF16 ? 2 : 4) * PANEL;
    vf sum[TILE_ROWS][TILE_VECTORS];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++) sum[r][v] = vf_all(0);
    for (int i = 0; i < k; i++) {
        vf weight[TILE_VECTORS];
        fetch(R, ahead + (size_t)i * bytes, panel);
        UNROLL for (int v = 0; v < V; v++)
            weight[v] = load_weights(format, w + (size_t)(v / VECTORS) * panel, (size_t)i * PANEL + (size_t)(v % VECTORS * LANES));
        UNROLL for (int r = 0; r < R; r++) {
            const vf value = vf_all(load_float(x + (size_t)r * stride + 4 * (size_t)i));
            UNROLL for (int v = 0; v < V; v++)
                sum[r][v] = (format == EXACT ? vf_fma : vf_mla)(value, weight[v], sum[r][v]);
        }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++) vf_store(y[r] + v * LANES, sum[r][v]);
}

INLINE void tile_exact(int R, int P, const Matrix *m, const uint8_t *w, const uint8_t *x, const uint8_t *ahead,
                       float (*y)[TILE_COLUMNS]) {
    tile_float(EXACT, R, P, m, w, x, ahead, y);
}
INLINE void tile_f32(int R, int P, const Matrix *m, const uint8_t *w, const uint8_t *x, const uint8_t *ahead,
                     float (*y)[TILE_COLUMNS]) {
    tile_float(F32, R, P, m, w, x, ahead, y);
}
INLINE void tile_f16(int R, int P, const Matrix *m, const uint8_t *w, const uint8_t *x, const uint8_t *ahead,
                     float (*y)[TILE_COLUMNS]) {
    tile_float(F16, R, P, m, w, x, ahead, y);
}
INLINE void tile_bf16(int R, int P, const Matrix *m, const uint8_t *w, const uint8_t *x, const uint8_t *ahead,
                      float (*y)[TILE_COLUMNS]) {
    tile_float(BF16, R, P, m, w, x, ahead, y);
}

/* int8 weights, float x: four k of each column stand in a lane, of which one after another becomes float. */
INLINE void add_int8w(int R, int V, vf (*sum)[TILE_VECTORS], const uint8_t *w, size_t panel, const uint8_t *x, size_t stride) {
    vi weights[TILE_VECTORS];
    UNROLL for (int v = 0; v < V; v++)
        weights[v] = int8_weights(vi_load(w + (size_t)(v / VECTORS) * panel + (size_t)(v % VECTORS * LANES * 4)));
    UNROLL for (int j = 0; j < 4; j++) {
        vf weight[TILE_VECTORS];
        UNROLL for (int v = 0; v < V; v++) weight[v] = vi_float((weights[v] << (24 - 8 * j)) >> 24);
        UNROLL for (int r = 0; r < R; r++) {
            const vf value = vf_all(load_float(x + (size_t)r * stride + 4 * (size_t)j));
            UNROLL for (int v = 0; v < V; v++) sum[r][v] = vf_mla(value, weight[v], sum[r][v]);
        }
    }
}

INLINE void tile_int8w(int R, int P, const Matrix *m, const uint8_t *restrict w, const uint8_t *restrict x,
                       const uint8_t *ahead, float (*restrict y)[TILE_COLUMNS]) {
    const int V = P * VECTORS, whole = m->k / 4 * 4;
    vf sum[TILE_ROWS][TILE_VECTORS];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++) sum[r][v] = vf_all(0);
    for (int i = 0; i < whole; i += 4) {
        fetch(R, ahead + (size_t)i * PANEL, m->panel);
        add_int8w(R, V, sum, w + (size_t)i * PANEL, m->panel, x + 4 * (size_t)i, m->stride);
    }
    if (whole < m->k) { /* the weights are padded to four, x is not */
        float rest[TILE_ROWS][4] = {{0}};
        for (int r = 0; r < R; r++)
            memcpy(rest[r], x + (size_t)r * m->stride + 4 * (size_t)whole, 4 * (size_t)(m->k - whole));
        add_int8w(R, V, sum, w + (size_t)whole * PANEL, m->panel, (const uint8_t *)rest, sizeof rest[0]);
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++) vf_store(y[r] + v * LANES, sum[r][v]);
}

/* int8 weights, quantized x. */
INLINE void tile_int8(int R, int P, const Matrix *m, const uint8_t *restrict w, const uint8_t *restrict x,
                      const uint8_t *ahead, float (*restrict y)[TILE_COLUMNS]) {
    const int V = P * VECTORS, k = m->k;
    const size_t panel = m->panel, stride = m->stride;
    vi sum[TILE_ROWS][TILE_VECTORS];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++) sum[r][v] = vi_all(0);
    x += values_offset(k);
    for (int i = 0; i < k; i += 4) {
        vi weight[TILE_VECTORS];
        const uint8_t *at = w + (size_t)i * PANEL;
        fetch(R, ahead + (size_t)i * PANEL, panel);
        UNROLL for (int v = 0; v < V; v++)
            weight[v] = dot_operand(vi_load(at + (size_t)(v / VECTORS) * panel + (size_t)(v % VECTORS * LANES * 4)));
        UNROLL for (int r = 0; r < R; r++) {
            const Four values = four(x + (size_t)r * stride + (size_t)i);
            UNROLL for (int v = 0; v < V; v++) sum[r][v] = dot_int8(sum[r][v], weight[v], values);
        }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++) vi_store(y[r] + v * LANES, sum[r][v]);
}

/* One group of int4: dot[r][v] = sum of (nibble - zero) * x, which starts at minus zero times the group's sum of x. */
INLINE void dot_group(int R, int V, vi (*dot)[TILE_VECTORS], const uint8_t *w, const uint8_t *zeros, size_t panel,
                      const uint8_t *sums, const uint8_t *x, size_t stride) {
    UNROLL for (int v = 0; v < V; v++) {
        const vi zero = vi_load_bytes(zeros + (size_t)(v / VECTORS) * panel + v % VECTORS * LANES);
        UNROLL for (int r = 0; r < R; r++) dot[r][v] = vi_times_short(zero, -load_int32(sums + (size_t)r * stride));
    }
    UNROLL for (int j = 0; j < 4; j++)
        UNROLL for (int v = 0; v < V; v++) {
            const vi both = vi_load(w + (size_t)(v / VECTORS) * panel + (size_t)(j * 64 + v % VECTORS * LANES * 4));
            const vi low = both & 0x0f0f0f0f, high = (both >> 4) & 0x0f0f0f0f;
            UNROLL for (int r = 0; r < R; r++) {
                const uint8_t *eight = x + (size_t)r * stride + 8 * j;
                dot[r][v] = dot_int4(dot_int4(dot[r][v], low, eight), high, eight + 4);
            }
        }
}

/* int4 weights, quantized x: each group is summed in integers, then scaled. */
INLINE void tile_int4(int R, int P, const Matrix *m, const uint8_t *restrict w, const uint8_t *restrict x,
                      const uint8_t *ahead, float (*restrict y)[TILE_COLUMNS]) {
    const int V = P * VECTORS, groups = m->k / GROUP;
    const size_t panel = m->panel, stride = m->stride, offset = values_offset(m->k);
    vf sum[TILE_ROWS][TILE_VECTORS];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++) sum[r][v] = vf_all(0);
    const uint8_t *scales = w + (size_t)groups * INT4_NIBBLES;
    for (int g = 0; g < groups; g++, w += INT4_NIBBLES, scales += INT4_SCALES, ahead += INT4_NIBBLES + INT4_SCALES) {
        vi dot[TILE_ROWS][TILE_VECTORS];
        UNROLL for (int line = 0; line < INT4_NIBBLES + INT4_SCALES; line += 64) fetch(R, ahead + line, panel);
        dot_group(R, V, dot, w, scales + INT4_ZEROS, panel, x + SUMS_OFFSET + 4 * (size_t)g, x + offset + GROUP * (size_t)g,
                  stride);
        UNROLL for (int v = 0; v < V; v++) {
            const vf scale = vf_load_half(scales + (size_t)(v / VECTORS) * panel + 2 * (v % VECTORS) * LANES);
            UNROLL for (int r = 0; r < R; r++) sum[r][v] = vf_fma(vi_float(dot[r][v]), scale, sum[r][v]);
        }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++) vf_store(y[r] + v * LANES, sum[r][v]);
}

/* The tiles of a scheme: by rows - 1, and [1] by one panel, [0] by as many as its sums find registers for. */
typedef struct {
    Tile *tile[2][TILE_ROWS];
    int sums; /* vectors of them that registers hold */
} Tiles;

/* Panels of the wide tile of so many rows, and the most rows of any. */
#define WIDE(rows, sums)                                                                                              \
    ((rows) * TILE_VECTORS <= (sums) ? TILE_PANELS : (rows) * 2 * VECTORS <= (sums) ? 2 : 1)
#define MOST_ROWS(sums) ((sums) / VECTORS < TILE_ROWS ? (sums) / VECTORS : TILE_ROWS)

#define TILE(SCHEME, SUMS, R)                                                                                         \
    static __attribute__((noinline)) void SCHEME##_wide_##R(const Matrix *m, const uint8_t *w, const uint8_t *x,      \
                                                            const uint8_t *ahead, float (*y)[TILE_COLUMNS]) {         \
        if (R <= MOST_ROWS(SUMS)) tile_##SCHEME(R, WIDE(R, SUMS), m, w, x, ahead, y);                                 \
    }                                                                                                                 \
    static __attribute__((noinline)) void SCHEME##_narrow_##R(const Matrix *m, const uint8_t *w, const uint8_t *x,    \
                                                              const uint8_t *ahead, float (*y)[TILE_COLUMNS]) {       \
        if (R <= MOST_ROWS(SUMS)) tile_##SCHEME(R, 1, m, w, x, ahead, y);                                             \
    }
#define TILES(SCHEME, SUMS)                                                                                           \
    TILE(SCHEME, SUMS, 1) TILE(SCHEME, SUMS, 2) TILE(SCHEME, SUMS, 3)                                                 \
    TILE(SCHEME, SUMS, 4) TILE(SCHEME, SUMS, 5) TILE(SCHEME, SUMS, 6)                                                 \
    TILE(SCHEME, SUMS, 7) TILE(SCHEME, SUMS, 8)                                                                       \
    static const Tiles tiles_##SCHEME = {                                                                             \
        {{SCHEME##_wide_1, SCHEME##_wide_2, SCHEME##_wide_3, SCHEME##_wide_4, SCHEME##_wide_5, SCHEME##_wide_6,       \
          SCHEME##_wide_7, SCHEME##_wide_8},                                                                          \
         {SCHEME##_narrow_1, SCHEME##_narrow_2, SCHEME##_narrow_3, SCHEME##_narrow_4, SCHEME##_narrow_5,              \
          SCHEME##_narrow_6, SCHEME##_narrow_7, SCHEME##_narrow_8}},                                                  \
        SUMS};

TILES(f32, FLOAT_SUMS)
#ifdef SIMD_FMA
#define tiles_exact tiles_f32
#else
TILES(exact, FLOAT_SUMS)
#endif
TILES(f16, FLOAT_SUMS)
TILES(bf16, FLOAT_SUMS)
TILES(int8w, INT8W_SUMS)
TILES(int8, INT8_SUMS)
TILES(int4, INT4_SUMS)

#endif
