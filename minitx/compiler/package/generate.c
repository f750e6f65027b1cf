/* Ids to ids with an open model, one sentence at a time: minitx/generation/search.py over runtime/search.c. */
#include <string.h>

#include "kernels/sizes.h"
#include "model.h"

static int run(minitx_model *m, int function, void *const *buffers, const int32_t *sizes) {
    Run run = {m->weights, m->arena, m->scratch, m->scratch_stride, buffers, sizes, 0, m->team, NULL};
    team_run(m->team, m->set->functions[function], &run);
    return 0;
}

static int run_step(void *model, void *const *buffers, const int32_t *sizes) {
    return run((minitx_model *)model, STEP, buffers, sizes);
}

/* Marks a token, unless it is; how many more are marked now. Bits as kernels/shortlist.h has them. */
static int mark(uint16_t *marks, uint32_t token) {
    const uint16_t bit = (uint16_t)(1u << token % 16);
    const int fresh = !(marks[token / 16] & bit);
    marks[token / 16] |= bit;
    return fresh;
}

/* Notes which target tokens the shortlist allows the source: `choose` of minitx/engines/native.py. */
static void allow(minitx_model *m, int count) {
    const int vocabulary = minitx_description.target_vocabulary;
    const int32_t *source = (const int32_t *)m->areas[SOURCE_TOKENS];
    uint16_t *marks = (uint16_t *)m->areas[ALLOWED];
    if (!m->starts) return;
    memset(marks, 0, (size_t)rounded(vocabulary, 16) / 8);
    int marked = mark(marks, (uint32_t)m->head->end);
    for (int32_t i = 0; i < m->head->always; i++) marked += mark(marks, (uint32_t)i);
    for (int i = 0; i < count; i++)
        for (uint32_t at = m->starts[source[i]]; at < m->starts[source[i] + 1]; at++)
            marked += mark(marks, shortlist_id(m, at));
    if (marked > vocabulary / 2) {
        m->sizes[MASKED] = marked < vocabulary;
        return;
    }
    int32_t *candidates = (int32_t *)m->areas[CANDIDATES];
    for (int32_t id = 0; id < vocabulary; id++)
        if (marks[id / 16] >> id % 16 & 1) candidates[m->sizes[CHOSEN]++] = id;
}

int minitx_take_source(minitx_model *m, const int32_t *source, int count) {
    m->rows = m->searched = 0;
    if (count > m->limits.source) return MINITX_LONG;
    for (int i = 0; i < count; i++)
        if (source[i] < 0 || source[i] >= minitx_description.source_vocabulary) return MINITX_TOKEN;
    if (count > 0) memcpy(m->areas[SOURCE_TOKENS], source, (size_t)count * sizeof *source);
    return MINITX_OK;
}

Step minitx_run_encoder(minitx_model *m, int count, int rows) {
    int32_t *positions = (int32_t *)m->areas[POSITIONS], *starts = (int32_t *)m->areas[STARTS];
    for (int i = 0; i < count; i++) positions[i] = i;
    starts[0] = 0;
    starts[1] = count;
    memset(m->sizes, 0, sizeof m->sizes);
    m->sizes[ROWS] = m->sizes[LONGEST] = count;
    m->sizes[SENTENCES] = m->sizes[TOP] = 1;
    allow(m, count);
    const int masked = m->sizes[MASKED];
    m->sizes[MASKED] = 0;
    run(m, ENCODE, m->buffers[ENCODE], m->sizes);
    m->sizes[MASKED] = masked;
    m->sizes[CAPACITY] = rows;
    return (Step){run_step, m, &minitx_layout, m->buffers[STEP], m->sizes};
}

static int smaller(int a, int b) { return a < b ? a : b; }

int minitx_request(const minitx_model *m, const minitx_options *given, int best, int count, Request *r) {
    static const minitx_options none = {0};
    const Head *h = m->head;
    const minitx_options *o = given ? given : &none;
    const double most = h->length_factor * count;
    int maximum = most < 1 ? 1 : most < m->limits.target ? (int)most : m->limits.target;
    if (o->maximum) maximum = smaller(o->maximum, m->limits.target);
    int beam = o->beam ? o->beam : h->beam;
    if (best > beam) beam = best;
    *r = (Request){{h->start, h->end, beam, h->penalty, h->alpha}, {smaller(o->minimum, maximum), maximum}, NULL, NULL};
    const int fits = o->maximum >= 0 && o->minimum >= 0 && o->beam >= 0 && best >= 1 && beam <= m->limits.beam;
    return fits ? MINITX_OK : MINITX_OPTIONS;
}

int minitx_search(minitx_model *m, int count, const Request *r) {
    m->rows = m->searched = 0;
    const Step step = minitx_run_encoder(m, count, r->options.beam);
    Search *s = search_start(m->search, &step, &r->options, &r->limits);
    const int32_t *last = (const int32_t *)m->areas[TARGET_TOKENS];
    int status, length = 0;
    while ((status = search_step(s)) == SEARCH_GOES_ON) {
        m->found[length++] = last[0];
        if (r->token && r->options.beam == 1 && r->token(r->told, m->found, length)) return MINITX_STOPPED;
    }
    if (status) return MINITX_NAN;
    double score;
    while (m->searched < r->options.beam && search_hypothesis(s, 0, m->searched, m->found, &score) >= 0) m->searched++;
    return m->searched ? MINITX_OK : MINITX_NAN;
}

int minitx_generate(minitx_model *m, const int32_t *source, int count, const minitx_options *options, int32_t *target,
                    int capacity, int *needed, double *score) {
    Request r;
    if (needed) *needed = 0;
    int failed = minitx_request(m, options, 1, count, &r);
    if (!failed) failed = minitx_take_source(m, source, count);
    if (failed || count < 1) return failed;
    failed = minitx_search(m, count, &r);
    return failed ? failed : minitx_hypothesis(m, 0, target, capacity, needed, score);
}

int minitx_hypothesis(minitx_model *m, int rank, int32_t *target, int capacity, int *needed, double *score) {
    double own;
    if (needed) *needed = 0;
    if (rank < 0 || rank >= m->searched) return MINITX_NONE;
    const int length = search_hypothesis((const Search *)m->search, 0, rank, m->found, score ? score : &own);
    if (needed) *needed = length;
    if (length > capacity) return MINITX_OUTPUT;
    if (length > 0) memcpy(target, m->found, (size_t)length * sizeof *target);
    return MINITX_OK;
}
