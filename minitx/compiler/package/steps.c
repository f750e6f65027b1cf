/* A model step by step, for searches that an application writes: `Engine` of minitx/engines in C. */
#include "kernels/sizes.h"
#include "model.h"

int minitx_begin(minitx_model *m, const int32_t *source, int count) {
    const int failed = minitx_take_source(m, source, count);
    if (failed) return failed;
    if (count < 1) return MINITX_OPTIONS;
    m->step = minitx_run_encoder(m, count, m->limits.beam);
    step_clear(&m->step, m->limits.beam);
    m->position = 0;
    m->rows = 1;
    return MINITX_OK;
}

int minitx_step(minitx_model *m, const int32_t *tokens, int top, int32_t *ids, float *scores) {
    const Layout *layout = m->step.layout;
    int32_t *given = (int32_t *)m->areas[TARGET_TOKENS];
    if (!m->rows) return MINITX_BEGIN;
    if (top < 1 || top > TOP_MAX || top > layout->vocabulary) return MINITX_OPTIONS;
    if (m->position == m->limits.target) return MINITX_LONG;
    for (int i = 0; i < m->rows; i++) {
        if (tokens[i] != m->head->start && (tokens[i] < 0 || tokens[i] >= layout->vocabulary)) return MINITX_TOKEN;
        given[i] = tokens[i];
    }
    void **buffers = m->buffers[STEP], *const own_ids = buffers[layout->ids], *const own_scores = buffers[layout->scores];
    buffers[layout->ids] = ids; /* they may be more than a search has room for */
    buffers[layout->scores] = scores;
    const int failed = step_run(&m->step, m->rows, m->position++, top);
    buffers[layout->ids] = own_ids;
    buffers[layout->scores] = own_scores;
    return failed ? MINITX_NAN : MINITX_OK;
}

int minitx_reorder(minitx_model *m, const int32_t *rows, int count) {
    if (!m->rows) return MINITX_BEGIN;
    if (count < 1 || count > m->limits.beam) return MINITX_OPTIONS;
    for (int i = 0; i < count; i++)
        if (rows[i] < 0 || rows[i] >= m->rows) return MINITX_OPTIONS;
    step_reorder(&m->step, m->position, rows, count, m->search);
    m->rows = count;
    return MINITX_OK;
}
