/* A search whose model runs elsewhere: the caller computes each step. */
#include <string.h>

#include "kernels/sizes.h"
#include "model.h"

enum { STEP = 1 };

static Search *search(minitx_model *m) { return (Search *)(void *)m->search; }

/* Tells of the step that comes next. */
static void tell(minitx_model *m, minitx_turn *turn) {
    const int going = search_prepare(search(m)) == SEARCH_GOES_ON;
    *turn = (minitx_turn){
        .rows = going ? m->sizes[ROWS] : 0,
        .top = m->sizes[TOP],
        .position = m->sizes[POSITION],
        .tokens = (const int32_t *)m->areas[TARGET_TOKENS],
        .before = search_rows(search(m)),
        .allowed = m->starts ? (const uint16_t *)m->areas[ALLOWED] : NULL,
        .ids = (int32_t *)m->areas[IDS],
        .scores = (float *)m->areas[SCORES],
    };
}

int minitx_begin(minitx_model *m, const int32_t *source, int count, const minitx_options *options, minitx_turn *turn) {
    Request r;
    const int failed = minitx_take(m, source, count, options, &r);
    m->bounds = (Limits){0, 0};
    *turn = (minitx_turn){0, 0, 0, NULL, NULL, NULL, NULL, NULL};
    if (failed || count < 1) return failed;
    memset(m->sizes, 0, sizeof m->sizes);
    m->sizes[SENTENCES] = 1;
    m->sizes[CAPACITY] = r.options.beam;
    minitx_allow(m, count);
    m->bounds = r.limits;
    const Step step = {NULL, m, &minitx_layout, m->buffers[STEP], m->sizes};
    search_start(m->search, &step, &r.options, &m->bounds);
    tell(m, turn);
    return MINITX_OK;
}

int minitx_advance(minitx_model *m, minitx_turn *turn) {
    if (!m->bounds.maximum || !turn->rows) return MINITX_OPTIONS;
    if (search_advance(search(m)) == SEARCH_NAN) {
        m->bounds.maximum = 0;
        return MINITX_NAN;
    }
    tell(m, turn);
    return MINITX_OK;
}

int minitx_result(minitx_model *m, int32_t *target, int capacity, int *needed, double *score) {
    double own;
    if (needed) *needed = 0;
    if (!m->bounds.maximum) return MINITX_OK;
    const int length = search_hypothesis(search(m), 0, 0, m->found, score ? score : &own);
    return minitx_give(m, length < 0 ? -MINITX_NAN : length, target, capacity, needed);
}
