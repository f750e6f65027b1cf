/* Tokens to vectors: rows of a packed matrix, times a factor, plus a row of a table of positions. */
#ifndef MINITX_EMBED_H
#define MINITX_EMBED_H

#include "linear.h"

INLINE float element_f32(const Matrix *m, const uint8_t *w, int column, int k) {
    (void)m;
    return load_float(w + 4 * ((size_t)k * PANEL + (size_t)column));
}

INLINE float half_at(const uint8_t *w, size_t i) {
    uint16_t halves[LANES] = {0};
    float lane[LANES];
    memcpy(halves, w + 2 * i, 2);
    vf_store(lane, vf_half(halves));
    return lane[0];
}

INLINE float element_f16(const Matrix *m, const uint8_t *w, int column, int k) {
    (void)m;
    return half_at(w, (size_t)k * PANEL + (size_t)column);
}

INLINE float element_bf16(const Matrix *m, const uint8_t *w, int column, int k) {
    (void)m;
    uint16_t half;
    memcpy(&half, w + 2 * ((size_t)k * PANEL + (size_t)column), 2);
    uint32_t bits = (uint32_t)half << 16;
    return load_float(&bits);
}

INLINE float element_int8(const Matrix *m, const uint8_t *w, int column, int k) {
    (void)m;
    return (float)(int8_t)w[((size_t)(k / 4) * PANEL + (size_t)column) * 4 + (size_t)(k % 4)];
}

INLINE float element_int4(const Matrix *m, const uint8_t *w, int column, int k) {
    (void)m;
    const uint8_t *group = w + (size_t)(k / GROUP) * INT4_BLOCK;
    int j = k % GROUP / 8, i = k % 8, byte = group[j * 64 + column * 4 + i % 4];
    int nibble = i < 4 ? byte & 15 : byte >> 4;
    return (float)(nibble - group[INT4_ZEROS + column]) * half_at(group + INT4_SCALES, (size_t)column);
}

/* y[r] = row tokens[r] of the matrix (vocabulary, c) * scale + table[positions[r]]. A token outside of the vocabulary is
 * no token, the zero vector. Without positions every row stands at sizes[POSITION]; the table may be NULL. */
#define EMBED(SCHEME, BYTES, SCALED)                                                                                  \
    static void embed_##SCHEME(float *y, const int32_t *tokens, const int32_t *positions, const uint8_t *w,           \
                               const float *table, const int32_t *sizes, int c, int vocabulary, float scale,          \
                               int thread, int threads) {                                                             \
        Matrix m = matrix(NULL, w, NULL, c, vocabulary, BYTES, 0);                                                    \
        int rows = sizes[ROWS];                                                                                       \
        for (int r = share(rows, thread, threads); r < share(rows, thread + 1, threads); r++) {                       \
            const int token = tokens[r], known = token >= 0 && token < vocabulary;                                    \
            const uint8_t *panel = w + (size_t)(known ? token / PANEL : 0) * m.panel;                                 \
            const float factor = known ? SCALED(scale * m.scale[token], scale) : 0;                                   \
            float *out = y + (size_t)r * (size_t)c;                                                                   \
            for (int k = 0; k < c; k++) out[k] = element_##SCHEME(&m, panel, known ? token % PANEL : 0, k) * factor;  \
            if (!table) continue;                                                                                     \
            const float *place = table + (size_t)(positions ? positions[r] : sizes[POSITION]) * (size_t)c;            \
            for (int k = 0; k < c; k++) out[k] += place[k];                                                           \
        }                                                                                                             \
    }

#define SCALE_OF_ROW(row, all) (row)
#define SCALE_OF_ALL(row, all) (all)
EMBED(f32, 4, SCALE_OF_ALL)
EMBED(f16, 2, SCALE_OF_ALL)
EMBED(bf16, 2, SCALE_OF_ALL)
EMBED(int8, 1, SCALE_OF_ROW)
EMBED(int4, 0, SCALE_OF_ALL)
#define embed_int8w embed_int8 /* the same layout */

#endif
