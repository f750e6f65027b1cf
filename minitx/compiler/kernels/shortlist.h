/* A shortlist: the columns of the output that the sources allow, which are rows of its matrix, and which of them each does.
 *
 * `choose` packs them anew, once for all steps of a search. Where several sentences are searched at once, `allowed` has a
 * bit for each sentence and column, those of a panel in a number.
 */
#ifndef MINITX_SHORTLIST_H
#define MINITX_SHORTLIST_H

#include "linear.h"

/* The same piece of each of so many blocks. */
INLINE void copy_pieces(uint8_t *to, const uint8_t *from, int blocks, size_t stride, size_t bytes) {
    for (int i = 0; i < blocks; i++) memcpy(to + (size_t)i * stride, from + (size_t)i * stride, bytes);
}

/* One of the 16 rows of a packed panel becomes one of those of another, without its scale behind all panels. */
static void copy_row(const Scheme *s, const Matrix *m, uint8_t *to, int at, const uint8_t *from, int row) {
    const int groups = m->k / GROUP;
    if (s->bytes == 2) {
        copy_pieces(to + 2 * at, from + 2 * row, m->k, 2 * PANEL, 2);
    } else if (s->bytes) { /* a float, or four int8 */
        copy_pieces(to + 4 * at, from + 4 * row, (int)(m->panel / (4 * PANEL)), 4 * PANEL, 4);
    } else {
        copy_pieces(to + 4 * at, from + 4 * row, 4 * groups, 4 * PANEL, 4);
        to += groups * INT4_NIBBLES;
        from += groups * INT4_NIBBLES;
        copy_pieces(to + 2 * at, from + 2 * row, groups, INT4_SCALES, 2);
        copy_pieces(to + INT4_ZEROS + at, from + INT4_ZEROS + row, groups, INT4_SCALES, 1);
    }
}

/* The rows `ids` of a packed matrix (n, k) as a packed matrix, and what the bias has for them. A last panel that is not
 * full has the last row again. */
static void choose_rows(const Scheme *s, uint8_t *chosen, float *chosen_bias, const uint8_t *w, const float *bias,
                        const int32_t *ids, const int32_t *sizes, int k, int n, int thread, int threads) {
    const int count = sizes[CHOSEN], panels = rounded(count, PANEL) / PANEL;
    const Matrix m = matrix(s, NULL, w, bias, k, n);
    float *scale = (float *)(chosen + (size_t)panels * m.panel);
    for (int c = share(panels, thread, threads) * PANEL; c < share(panels, thread + 1, threads) * PANEL; c++) {
        const int id = ids[c < count ? c : count - 1];
        copy_row(s, &m, chosen + (size_t)(c / PANEL) * m.panel, c % PANEL, w + (size_t)(id / PANEL) * m.panel, id % PANEL);
        if (m.scale) scale[c] = m.scale[id];
        chosen_bias[c] = bias[id];
    }
}

#define CHOOSE(SCHEME)                                                                                                \
    static void choose_##SCHEME(uint8_t *chosen, float *chosen_bias, const uint8_t *w, const float *bias,             \
                                const int32_t *ids, const int32_t *sizes, int k, int n, int thread, int threads) {    \
        choose_rows(&scheme_##SCHEME, chosen, chosen_bias, w, bias, ids, sizes, k, n, thread, threads);               \
    }

CHOOSE(f32)
CHOOSE(f16)
CHOOSE(bf16)
CHOOSE(int8)
CHOOSE(int8w)
CHOOSE(int4)

/* Minus infinity for the logits of so many panels that are not allowed. */
static void forbid(float *logits, int panels, const uint16_t *allowed) {
    static const int32_t bits[PANEL] = {1,      1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                        1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
    for (int p = 0; p < panels; p++, logits += PANEL)
        for (int i = 0; i < PANEL; i += LANES) {
            const vi out = (vi_load(bits + i) & allowed[p]) == vi_all(0);
            vf_store(logits + i, vf_select(out, vf_all(-__builtin_inff()), vf_load(logits + i)));
        }
}

#endif
