/* Tokens to vectors: rows of a packed matrix, times a factor, plus a row of a table of positions. */
#ifndef MINITX_EMBED_H
#define MINITX_EMBED_H

#include "linear.h"

/* Row `token` of the packed matrix times `factor`, to y (c). */
typedef void Unpack(float *y, const Matrix *m, int token, float factor);

INLINE void unpack_float(int format, int bytes, float *y, const Matrix *m, int token, float factor) {
    const uint8_t *w = m->w + (size_t)(token / PANEL) * m->panel + token % PANEL * bytes;
    for (int i = 0; i < m->k; i++) {
        uint8_t element[4 * LANES] = {0};
        memcpy(element, w + (size_t)i * PANEL * (size_t)bytes, (size_t)bytes);
        y[i] = load_weights(format, element, 0)[0] * factor;
    }
}

static void unpack_f32(float *y, const Matrix *m, int token, float factor) { unpack_float(F32, 4, y, m, token, factor); }
static void unpack_f16(float *y, const Matrix *m, int token, float factor) { unpack_float(F16, 2, y, m, token, factor); }
static void unpack_bf16(float *y, const Matrix *m, int token, float factor) { unpack_float(BF16, 2, y, m, token, factor); }

static void unpack_int8(float *y, const Matrix *m, int token, float factor) {
    const uint8_t *w = m->w + (size_t)(token / PANEL) * m->panel + token % PANEL * 4;
    factor *= m->scale[token];
    for (int i = 0; i < m->k; i++) y[i] = (float)(w[(size_t)(i / 4) * PANEL * 4 + (size_t)(i % 4)] - 128) * factor;
}

static void unpack_int4(float *y, const Matrix *m, int token, float factor) {
    const uint8_t *w = m->w + (size_t)(token / PANEL) * m->panel;
    const uint8_t *scales = w + (size_t)(m->k / GROUP) * INT4_NIBBLES;
    const int column = token % PANEL;
    for (int i = 0; i < m->k; i += GROUP, w += INT4_NIBBLES, scales += INT4_SCALES) {
        float scale[PANEL];
        for (int v = 0; v < PANEL; v += LANES) vf_store(scale + v, vf_load_half(scales + 2 * v));
        for (int j = 0; j < GROUP; j++) {
            const int byte = w[j / 8 * 64 + column * 4 + j % 4], nibble = j % 8 < 4 ? byte & 15 : byte >> 4;
            y[i + j] = (float)(nibble - scales[INT4_ZEROS + column]) * scale[column] * factor;
        }
    }
}

/* A token outside of the vocabulary is no token, the zero vector. Without positions every row stands at POSITION. */
INLINE void embed(Unpack *unpack, float *y, const Matrix *m, const int32_t *tokens, const int32_t *positions,
                  const float *table, const int32_t *sizes, float scale, int thread, int threads) {
    const int rows = sizes[ROWS], c = m->k;
    for (int r = share(rows, thread, threads); r < share(rows, thread + 1, threads); r++) {
        float *row = y + (size_t)r * (size_t)c;
        if (tokens[r] >= 0 && tokens[r] < m->n) unpack(row, m, tokens[r], scale);
        else memset(row, 0, sizeof(float) * (size_t)c);
        if (!table) continue;
        const float *place = table + (size_t)(positions ? positions[r] : sizes[POSITION]) * (size_t)c;
        for (int i = 0; i < c; i++) row[i] += place[i];
    }
}

/* y[r] = row tokens[r] of the matrix (vocabulary, c) * scale + table[positions[r]]; positions and table may be NULL. */
#define EMBED(SCHEME)                                                                                                 \
    static void embed_##SCHEME(float *y, const int32_t *tokens, const int32_t *positions, const uint8_t *w,           \
                               const float *table, const int32_t *sizes, int c, int vocabulary, float scale,          \
                               int thread, int threads) {                                                             \
        const Matrix m = matrix(&scheme_##SCHEME, NULL, w, NULL, c, vocabulary);                                      \
        embed(unpack_##SCHEME, y, &m, tokens, positions, table, sizes, scale, thread, threads);                       \
    }

EMBED(f32)
EMBED(f16)
EMBED(bf16)
EMBED(int8)
EMBED(int4)
#define embed_int8w embed_int8 /* the same layout */

#endif
