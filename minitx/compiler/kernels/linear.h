/* y = activation(x W^T + b) over rows of x, with W (n, k) packed in panels of 16 of its rows.
 *
 * | scheme         | W, panel after panel                                                    | x                      |
 * |----------------|-------------------------------------------------------------------------|------------------------|
 * | f32, f16, bf16 | [k][16]                                                                 | float                  |
 * | int8, int8w    | [k/4][16][4] int8; behind all panels float scale[n], int32 sums[n]      | quantized; float       |
 * | int4           | [k/32]: [4][16][4] bytes, 16 half scales, 16 zero points of a byte      | quantized              |
 *
 * n is padded to a multiple of 16 and k of int8 to one of 4, with zeros. A byte of int4 at [j][c][i] holds, of column
 * c, the values 8j + i of the group in the low and 8j + 4 + i in the high nibble; W = (nibble - zero) * scale.
 *
 * The innermost loops are functions of their own, a number of rows by a number of panels: accumulators in registers,
 * and nothing else, or the compiler spills them. What remains (scale, bias, activation) is a second loop over the tile.
 */
#ifndef MINITX_LINEAR_H
#define MINITX_LINEAR_H

#include "quantize.h"

enum { IDENTITY, RELU, GELU, GELU_TANH, SILU, SIGMOID };
enum { TILE_ROWS = 6, TILE_PANELS = 4, TILE_COLUMNS = TILE_PANELS * PANEL };

/* A packed matrix, and what a call reads beside it. */
typedef struct {
    const uint8_t *w, *x;
    const float *bias, *scale;
    const int32_t *sums;
    size_t panel, stride; /* bytes of a panel, and from one row of x to the next */
    int k, n;
} Matrix;

/* Sums of `panels` panels and some rows, into sums[row][panel * 16 + column], scaled but without bias. */
typedef void (*Tile)(const Matrix *m, const uint8_t *w, const uint8_t *x, float (*y)[TILE_COLUMNS]);

/* ---- float activations: the weights of one k at a time, as the loader of the scheme gives them ---- */

#define LOAD_F32(w, k, v) vf_load((const float *)(w) + (size_t)(k)*PANEL + (v)*LANES)
#define LOAD_F16(w, k, v) vf_half((const uint16_t *)(w) + (size_t)(k)*PANEL + (v)*LANES)
#define LOAD_BF16(w, k, v) vf_brain((const uint16_t *)(w) + (size_t)(k)*PANEL + (v)*LANES)

#define FLOAT_TILE(NAME, LOAD, R, P)                                                                                  \
    static __attribute__((noinline)) void NAME##_##R##_##P(                                                           \
        const Matrix *m, const uint8_t *restrict w, const uint8_t *restrict x, float (*restrict y)[TILE_COLUMNS]) {   \
        const size_t panel = m->panel;                                                                                \
        const float *restrict row[R];                                                                                 \
        vf sum[R][P * VECTORS];                                                                                       \
        UNROLL for (int r = 0; r < R; r++) {                                                                          \
            row[r] = (const float *)(x + (size_t)r * m->stride);                                                      \
            UNROLL for (int v = 0; v < P * VECTORS; v++) sum[r][v] = vf_all(0);                                       \
        }                                                                                                             \
        for (int k = 0; k < m->k; k++) {                                                                              \
            vf weight[P * VECTORS];                                                                                   \
            UNROLL for (int p = 0; p < P; p++)                                                                        \
                UNROLL for (int v = 0; v < VECTORS; v++) weight[p * VECTORS + v] = LOAD(w + (size_t)p * panel, k, v); \
            UNROLL for (int r = 0; r < R; r++) {                                                                      \
                vf value = vf_all(row[r][k]);                                                                         \
                UNROLL for (int v = 0; v < P * VECTORS; v++) sum[r][v] = vf_fma(value, weight[v], sum[r][v]);         \
            }                                                                                                         \
        }                                                                                                             \
        UNROLL for (int r = 0; r < R; r++)                                                                            \
            UNROLL for (int v = 0; v < P * VECTORS; v++) vf_store(y[r] + v * LANES, sum[r][v]);                       \
    }

/* int8 weights with float activations: of each 4 values in a lane, one after another is moved to the top and back. */
#define INT8W_TILE(NAME, UNUSED, R, P)                                                                                \
    static __attribute__((noinline)) void NAME##_##R##_##P(                                                           \
        const Matrix *m, const uint8_t *restrict w, const uint8_t *restrict x, float (*restrict y)[TILE_COLUMNS]) {   \
        vf sum[R][P * VECTORS];                                                                                       \
        UNROLL for (int r = 0; r < R; r++)                                                                            \
            UNROLL for (int v = 0; v < P * VECTORS; v++) sum[r][v] = vf_all(0);                                       \
        for (int k = 0; k < m->k; k += 4)                                                                             \
            UNROLL for (int p = 0; p < P; p++)                                                                        \
                UNROLL for (int v = 0; v < VECTORS; v++) {                                                            \
                    vi four = vi_load(w + (size_t)p * m->panel + (size_t)k * PANEL + v * LANES * 4);                  \
                    vf weight[4] = {vi_float(vi_right(vi_left(four, 24), 24)),                                        \
                                    vi_float(vi_right(vi_left(four, 16), 24)),                                        \
                                    vi_float(vi_right(vi_left(four, 8), 24)), vi_float(vi_right(four, 24))};          \
                    for (int j = 0; j < 4 && k + j < m->k; j++)                                                       \
                        UNROLL for (int r = 0; r < R; r++) {                                                          \
                            const float *row = (const float *)(x + (size_t)r * m->stride);                            \
                            sum[r][p * VECTORS + v] = vf_fma(vf_all(row[k + j]), weight[j], sum[r][p * VECTORS + v]); \
                        }                                                                                             \
                }                                                                                                     \
        UNROLL for (int r = 0; r < R; r++)                                                                            \
            UNROLL for (int v = 0; v < P * VECTORS; v++) vf_store(y[r] + v * LANES, sum[r][v]);                       \
    }

/* ---- quantized activations ---- */

#define INT8_TILE(NAME, UNUSED, R, P)                                                                                 \
    static __attribute__((noinline)) void NAME##_##R##_##P(                                                           \
        const Matrix *m, const uint8_t *restrict w, const uint8_t *restrict x, float (*restrict y)[TILE_COLUMNS]) {   \
        const size_t panel = m->panel;                                                                                \
        const uint8_t *restrict row[R];                                                                               \
        vi sum[R][P * VECTORS];                                                                                       \
        UNROLL for (int r = 0; r < R; r++) {                                                                          \
            row[r] = x + (size_t)r * m->stride + values_offset(m->k);                                                 \
            UNROLL for (int v = 0; v < P * VECTORS; v++) sum[r][v] = vi_all(0);                                       \
        }                                                                                                             \
        for (int k = 0; k < m->k; k += 4) {                                                                           \
            vi weight[P * VECTORS];                                                                                   \
            UNROLL for (int p = 0; p < P; p++)                                                                        \
                UNROLL for (int v = 0; v < VECTORS; v++)                                                              \
                    weight[p * VECTORS + v] = vi_load(w + (size_t)p * panel + (size_t)k * PANEL + v * LANES * 4);     \
            UNROLL for (int r = 0; r < R; r++) {                                                                      \
                Dotted four = dotted(load_int32(row[r] + k));                                                         \
                UNROLL for (int v = 0; v < P * VECTORS; v++) sum[r][v] = dot_int8(sum[r][v], weight[v], four);        \
            }                                                                                                         \
        }                                                                                                             \
        UNROLL for (int r = 0; r < R; r++)                                                                            \
            UNROLL for (int v = 0; v < P * VECTORS; v++) vi_store((int32_t *)y[r] + v * LANES, sum[r][v]);            \
    }

enum { INT4_BLOCK = 304, INT4_SCALES = 256, INT4_ZEROS = 288 };

/* Each group is summed in integers, starting at minus the zero point times the sum of the activations. */
#define INT4_TILE(NAME, UNUSED, R, P)                                                                                 \
    static __attribute__((noinline)) void NAME##_##R##_##P(                                                           \
        const Matrix *m, const uint8_t *restrict w, const uint8_t *restrict x, float (*restrict y)[TILE_COLUMNS]) {   \
        const size_t panel = m->panel, offset = values_offset(m->k);                                                  \
        vf sum[R][P * VECTORS];                                                                                       \
        UNROLL for (int r = 0; r < R; r++)                                                                            \
            UNROLL for (int v = 0; v < P * VECTORS; v++) sum[r][v] = vf_all(0);                                       \
        for (int g = 0; g < m->k / GROUP; g++, w += INT4_BLOCK) {                                                     \
            vi dot[R][P * VECTORS];                                                                                   \
            UNROLL for (int p = 0; p < P; p++)                                                                        \
                UNROLL for (int v = 0; v < VECTORS; v++) {                                                            \
                    vi zero = vi_bytes(w + (size_t)p * panel + INT4_ZEROS + v * LANES);                               \
                    UNROLL for (int r = 0; r < R; r++) {                                                              \
                        vi total = vi_all(-load_int32(x + (size_t)r * m->stride + 64 + 4 * g));                       \
                        dot[r][p * VECTORS + v] = vi_mul(total, zero);                                                \
                    }                                                                                                 \
                }                                                                                                     \
            UNROLL for (int j = 0; j < 4; j++)                                                                        \
                UNROLL for (int p = 0; p < P; p++)                                                                    \
                    UNROLL for (int v = 0; v < VECTORS; v++) {                                                        \
                        vi both = vi_load(w + (size_t)p * panel + j * 64 + v * LANES * 4);                            \
                        vi low = vi_and(both, vi_all(0x0f0f0f0f));                                                    \
                        vi high = vi_and(vi_right(both, 4), vi_all(0x0f0f0f0f));                                      \
                        UNROLL for (int r = 0; r < R; r++) {                                                          \
                            const uint8_t *q = x + (size_t)r * m->stride + offset + g * GROUP + j * 8;                \
                            vi *d = &dot[r][p * VECTORS + v];                                                         \
                            *d = dot_int4(dot_int4(*d, low, load_int32(q)), high, load_int32(q + 4));                 \
                        }                                                                                             \
                    }                                                                                                 \
            UNROLL for (int p = 0; p < P; p++)                                                                        \
                UNROLL for (int v = 0; v < VECTORS; v++) {                                                            \
                    vf scale = vf_half((const uint16_t *)(w + (size_t)p * panel + INT4_SCALES) + v * LANES);          \
                    UNROLL for (int r = 0; r < R; r++) {                                                              \
                        int i = p * VECTORS + v;                                                                      \
                        sum[r][i] = vf_fma(vi_float(dot[r][i]), scale, sum[r][i]);                                    \
                    }                                                                                                 \
                }                                                                                                     \
        }                                                                                                             \
        UNROLL for (int r = 0; r < R; r++)                                                                            \
            UNROLL for (int v = 0; v < P * VECTORS; v++) vf_store(y[r] + v * LANES, sum[r][v]);                       \
    }

/* Tiles of 1 to 6 rows by one panel or by four. */
#define TILES(NAME, KIND, LOAD)                                                                                       \
    KIND(NAME, LOAD, 1, 1) KIND(NAME, LOAD, 2, 1) KIND(NAME, LOAD, 3, 1)                                              \
    KIND(NAME, LOAD, 4, 1) KIND(NAME, LOAD, 5, 1) KIND(NAME, LOAD, 6, 1)                                              \
    KIND(NAME, LOAD, 1, 4) KIND(NAME, LOAD, 2, 4) KIND(NAME, LOAD, 3, 4)                                              \
    KIND(NAME, LOAD, 4, 4) KIND(NAME, LOAD, 5, 4) KIND(NAME, LOAD, 6, 4)                                              \
    static const Tile NAME##_tiles[2][TILE_ROWS] = {                                                                  \
        {NAME##_1_1, NAME##_2_1, NAME##_3_1, NAME##_4_1, NAME##_5_1, NAME##_6_1},                                     \
        {NAME##_1_4, NAME##_2_4, NAME##_3_4, NAME##_4_4, NAME##_5_4, NAME##_6_4}};

TILES(f32, FLOAT_TILE, LOAD_F32)
TILES(f16, FLOAT_TILE, LOAD_F16)
TILES(bf16, FLOAT_TILE, LOAD_BF16)
TILES(int8, INT8_TILE, unused)
TILES(int8w, INT8W_TILE, unused)
TILES(int4, INT4_TILE, unused)

/* ---- from sums to values: y[r][i] for the columns of a tile ---- */

INLINE void scaled_f32(const Matrix *m, const uint8_t *x, float *y, int column, int count) {
    (void)x;
    if (m->bias) for (int i = 0; i < count; i++) y[i] += m->bias[column + i];
}

INLINE void scaled_int8w(const Matrix *m, const uint8_t *x, float *y, int column, int count) {
    for (int i = 0; i < count; i++) y[i] *= m->scale[column + i];
    scaled_f32(m, x, y, column, count);
}

INLINE void scaled_int8(const Matrix *m, const uint8_t *x, float *y, int column, int count) {
    const float scale = load_float(x);
    int32_t sum[TILE_COLUMNS];
    memcpy(sum, y, sizeof sum[0] * (size_t)count);
    for (int i = 0; i < count; i++)
        y[i] = (float)(sum[i] - DOT_OFFSET * m->sums[column + i]) * (m->scale[column + i] * scale);
    scaled_f32(m, x, y, column, count);
}

INLINE void scaled_int4(const Matrix *m, const uint8_t *x, float *y, int column, int count) {
    const float scale = load_float(x);
    for (int i = 0; i < count; i++) y[i] *= scale;
    scaled_f32(m, x, y, column, count);
}

/* Gauss's error function by Abramowitz and Stegun 1964, 7.1.26: within 1.5e-7. */
static inline vf vf_erf(vf x) {
    vf a = vf_max(x, vf_all(0) - x), t = vf_all(1.0f) / vf_fma(vf_all(0.3275911f), a, vf_all(1.0f));
    vf p = vf_fma(vf_all(1.061405429f), t, vf_all(-1.453152027f));
    p = vf_fma(p, t, vf_all(1.421413741f));
    p = vf_fma(p, t, vf_all(-0.284496736f));
    p = vf_fma(p, t, vf_all(0.254829592f));
    vf e = vf_all(1.0f) - p * t * vf_exp(vf_all(0) - a * a);
    float sign[LANES], value[LANES];
    vf_store(sign, x);
    vf_store(value, e);
    for (int i = 0; i < LANES; i++) value[i] = sign[i] < 0 ? -value[i] : value[i];
    return vf_load(value);
}

static inline vf vf_sigmoid(vf x) {
    return vf_all(1.0f) / (vf_all(1.0f) + vf_exp(vf_all(0) - x));
}

static void activate(float *y, int count, int activation) { /* count is a multiple of a panel */
    for (int i = 0; i < count; i += LANES) {
        vf x = vf_load(y + i);
        switch (activation) {
        case RELU: x = vf_max(vf_all(0), x); break;
        case GELU: x = x * vf_all(0.5f) * (vf_all(1.0f) + vf_erf(x * vf_all(0.70710678f))); break;
        case GELU_TANH: /* 0.5 (1 + tanh u) is the sigmoid of 2u */
            x = x * vf_sigmoid(vf_all(1.5957691f) * vf_fma(x * x * x, vf_all(0.044715f), x));
            break;
        case SILU: x = x * vf_sigmoid(x); break;
        case SIGMOID: x = vf_sigmoid(x); break;
        }
        vf_store(y + i, x);
    }
}

static size_t panel_bytes(int bytes, int k) {
    return bytes ? (size_t)k * PANEL * (size_t)bytes : (size_t)(k / GROUP) * INT4_BLOCK;
}

INLINE Matrix matrix(const void *x, const uint8_t *w, const float *bias, int k, int n, int bytes, int quantized) {
    int np = rounded(n, PANEL), kp = bytes == 1 ? rounded(k, 4) : k;
    Matrix m = {w, x, bias, NULL, NULL, panel_bytes(bytes, kp), quantized ? quantized_stride(k) : 4 * (size_t)k, k, n};
    m.scale = (const float *)(w + (size_t)(np / PANEL) * m.panel);
    m.sums = (const int32_t *)(m.scale + np);
    return m;
}

/* One block of up to 4 panels and up to 6 rows, with bias: into y[row][column of the block]. */
INLINE void block(const Matrix *m, const Tile (*tiles)[TILE_ROWS],
                  void (*scaled)(const Matrix *, const uint8_t *, float *, int, int),
                  int panel, int panels, int row, int rows, float (*y)[TILE_COLUMNS]) {
    const uint8_t *x = m->x + (size_t)row * m->stride, *w = m->w + (size_t)panel * m->panel;
    if (panels == TILE_PANELS && (PANELS == TILE_PANELS || rows == 1)) tiles[1][rows - 1](m, w, x, y);
    else
        for (int p = 0; p < panels; p++)
            tiles[0][rows - 1](m, w + (size_t)p * m->panel, x, (float (*)[TILE_COLUMNS])(y[0] + p * PANEL));
    for (int r = 0; r < rows; r++) scaled(m, x + (size_t)r * m->stride, y[r], panel * PANEL, panels * PANEL);
}

/* Panels are divided among the threads in blocks of four, so that each streams its own part of the weights. */
INLINE int first_panel(int n, int thread, int threads) {
    int panels = rounded(n, PANEL) / PANEL, blocks = rounded(panels, TILE_PANELS) / TILE_PANELS;
    int first = share(blocks, thread, threads) * TILE_PANELS;
    return first < panels ? first : panels;
}

INLINE void linear(float *y, const Matrix *m, const Tile (*tiles)[TILE_ROWS],
                   void (*scaled)(const Matrix *, const uint8_t *, float *, int, int),
                   int rows_max, const int32_t *sizes, int activation, int thread, int threads) {
    int end = first_panel(m->n, thread + 1, threads);
    for (int panel = first_panel(m->n, thread, threads); panel < end; panel += TILE_PANELS) {
        int panels = end - panel < TILE_PANELS ? end - panel : TILE_PANELS;
        int left = m->n - panel * PANEL, columns = left < panels * PANEL ? left : panels * PANEL;
        for (int row = 0, rows; row < sizes[ROWS]; row += rows) {
            _Alignas(64) float tile[TILE_ROWS][TILE_COLUMNS];
            rows = sizes[ROWS] - row < rows_max ? sizes[ROWS] - row : rows_max;
            block(m, tiles, scaled, panel, panels, row, rows, tile);
            for (int r = 0; r < rows; r++) {
                if (activation != IDENTITY) activate(tile[r], panels * PANEL, activation);
                memcpy(y + (size_t)(row + r) * (size_t)m->n + panel * PANEL, tile[r], sizeof(float) * (size_t)columns);
            }
        }
    }
}

#define LINEAR(SCHEME, BYTES, QUANTIZED, SCALED, MAX)                                                                 \
    static void linear_##SCHEME(float *y, const void *x, const uint8_t *w, const float *bias, const int32_t *sizes,   \
                                int k, int n, int activation, int thread, int threads) {                              \
        Matrix m = matrix(x, w, bias, k, n, BYTES, QUANTIZED);                                                        \
        linear(y, &m, SCHEME##_tiles, SCALED, MAX, sizes, activation, thread, threads);                               \
    }

LINEAR(f32, 4, 0, scaled_f32, FLOAT_ROWS_MAX)
LINEAR(f16, 2, 0, scaled_f32, FLOAT_ROWS_MAX)
LINEAR(bf16, 2, 0, scaled_f32, FLOAT_ROWS_MAX)
LINEAR(int8, 1, 1, scaled_int8, ROWS_MAX)
LINEAR(int8w, 1, 0, scaled_int8w, ROWS_MAX)
LINEAR(int4, 0, 1, scaled_int4, 2)

#endif
