/* Text to text and ids to ids with an open model, one sentence at a time: minitx/model.py in C. */
#include <string.h>

#include "kernels/sizes.h"
#include "model.h"

enum { ENCODE, STEP };

static const char *const MESSAGES[MINITX_ERRORS] = {
    [MINITX_OK] = "all is well",
    [MINITX_NO_FILE] = "the weight file cannot be read; check its name and permissions",
    [MINITX_NO_MEMORY] = "out of memory; open the model with smaller limits",
    [MINITX_NOT_WEIGHTS] = "this is no weight file for this machine, or not at a multiple of 64; give another",
    [MINITX_VERSION] = "the weight file is of another version; export it again, with the code",
    [MINITX_OTHER_MODEL] = "the weight file is of another model; give the one that was exported with this code",
    [MINITX_TRUNCATED] = "the weight file is not whole; copy it again",
    [MINITX_DAMAGED] = "the weight file is damaged; copy it again",
    [MINITX_PROCESSOR] = "no code for this processor was compiled in; compile it on this machine",
    [MINITX_LIMITS] = "the limits are out of range; give lower ones, or 0 for the default",
    [MINITX_WORKSPACE] = "the workspace is too small or not at a multiple of 64; ask for the size that is needed",
    [MINITX_OPTIONS] = "the options are out of range, or above the limits that the model was opened with",
    [MINITX_TOKEN] = "a token is not in the vocabulary",
    [MINITX_LONG] = "a sentence is too long; split it, or open the model with greater limits",
    [MINITX_OUTPUT] = "the output is longer than its buffer; give the size that is needed",
    [MINITX_NAN] = "the model gives no numbers; its weights are damaged, export it again",
    [MINITX_STOPPED] = "stopped by the callback",
};

const char *minitx_message(int error) {
    return error >= 0 && error < MINITX_ERRORS ? MESSAGES[error] : "an unknown error";
}

size_t minitx_replaced(const char *text, size_t bytes) { return tokenizer_replaced(text, bytes); }

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

void minitx_allow(minitx_model *m, int count) {
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

/* Runs the encoder over the tokens in SOURCE_TOKENS. */
static void encode(minitx_model *m, int count) {
    int32_t *positions = (int32_t *)m->areas[POSITIONS], *starts = (int32_t *)m->areas[STARTS];
    for (int i = 0; i < count; i++) positions[i] = i;
    starts[0] = 0;
    starts[1] = count;
    memset(m->sizes, 0, sizeof m->sizes);
    m->sizes[ROWS] = m->sizes[LONGEST] = count;
    m->sizes[SENTENCES] = m->sizes[TOP] = 1;
    minitx_allow(m, count);
    const int masked = m->sizes[MASKED];
    m->sizes[MASKED] = 0;
    run(m, ENCODE, m->buffers[ENCODE], m->sizes);
    m->sizes[MASKED] = masked;
}

static int smaller(int a, int b) { return a < b ? a : b; }

/* What the options ask for, for a source of so many tokens. */
static int request(const minitx_model *m, const minitx_options *given, int count, Request *r) {
    const Head *h = m->head;
    const minitx_options o = given ? *given : (minitx_options){0, 0, NULL, NULL};
    const double most = h->length_factor * count;
    int maximum = most < 1 ? 1 : most < m->limits.target ? (int)most : m->limits.target;
    if (o.maximum) maximum = smaller(o.maximum, m->limits.target);
    *r = (Request){{h->start, h->end, o.beam ? o.beam : h->beam, h->penalty, h->alpha}, {0, maximum}, NULL, NULL};
    return o.maximum < 0 || r->options.beam < 1 || r->options.beam > m->limits.beam ? MINITX_OPTIONS : MINITX_OK;
}

/* The best hypothesis of the tokens in SOURCE_TOKENS, in `found`: its tokens, or minus an error. */
static int search(minitx_model *m, int count, const Request *r, double *score) {
    encode(m, count);
    m->sizes[CAPACITY] = r->options.beam;
    const Step step = {run_step, m, &minitx_layout, m->buffers[STEP], m->sizes};
    Search *s = search_start(m->search, &step, &r->options, &r->limits);
    const int32_t *last = (const int32_t *)m->areas[TARGET_TOKENS];
    int status, length = 0;
    while ((status = search_step(s)) == SEARCH_GOES_ON) {
        m->found[length++] = last[0];
        if (r->token && r->options.beam == 1 && r->token(r->told, m->found, length)) return -MINITX_STOPPED;
    }
    if (status) return -MINITX_NAN;
    length = search_hypothesis(s, 0, 0, m->found, score);
    return length < 0 ? -MINITX_NAN : length;
}

int minitx_take(minitx_model *m, const int32_t *source, int count, const minitx_options *options, Request *r) {
    const int failed = request(m, options, count, r);
    if (failed) return failed;
    if (count > m->limits.source) return MINITX_LONG;
    for (int i = 0; i < count; i++)
        if (source[i] < 0 || source[i] >= minitx_description.source_vocabulary) return MINITX_TOKEN;
    if (count > 0) memcpy(m->areas[SOURCE_TOKENS], source, (size_t)count * sizeof *source);
    return MINITX_OK;
}

int minitx_give(const minitx_model *m, int length, int32_t *target, int capacity, int *needed) {
    if (length < 0) return -length;
    if (needed) *needed = length;
    if (length > capacity) return MINITX_OUTPUT;
    if (length) memcpy(target, m->found, (size_t)length * sizeof *target);
    return MINITX_OK;
}

int minitx_generate(minitx_model *m, const int32_t *source, int count, const minitx_options *options, int32_t *target,
                    int capacity, int *needed, double *score) {
    Request r;
    double own;
    const int failed = minitx_take(m, source, count, options, &r);
    if (needed) *needed = 0;
    if (failed || count < 1) return failed;
    return minitx_give(m, search(m, count, &r, score ? score : &own), target, capacity, needed);
}

/* The tokens of a sentence with the end, 0 for an empty one, of which no more than `capacity` are written; or minus an
 * error. */
static int tokenize(minitx_model *m, const char *text, size_t bytes, int32_t *ids, int capacity) {
    const int count = tokenizer_encode(&m->source, text, bytes, ids, capacity, m->room, m->room_bytes);
    if (count == TOKENIZER_WORKSPACE || count == TOKENIZER_LONG) return -MINITX_LONG;
    if (count < 0) return -MINITX_DAMAGED;
    if (count && count < capacity) ids[count] = m->head->end;
    return count ? count + 1 : 0;
}

int minitx_encode(minitx_model *m, const char *text, size_t bytes, int32_t *ids, int capacity, int *needed) {
    const int count = tokenize(m, text, bytes, ids, capacity);
    if (needed) *needed = count < 0 ? 0 : count;
    return count < 0 ? -count : count > capacity ? MINITX_OUTPUT : MINITX_OK;
}

/* Where a text is written; `size` goes on counting where there is no more room. */
typedef struct {
    minitx_model *model;
    const minitx_options *options;
    char *out;
    size_t size, capacity;
    size_t shown; /* of the sentence under way: bytes that the callback was told */
} Writer;

static int decode(const minitx_model *m, const int32_t *ids, int count, char *out, size_t size, size_t capacity) {
    return tokenizer_decode(&m->target, ids, count, size < capacity ? out + size : NULL,
                            size < capacity ? capacity - size : 0);
}

/* Tells the callback what of a sentence of so many bytes it was not told. */
static int show(Writer *w, size_t bytes) {
    if (!w->options || !w->options->piece || w->size + bytes > w->capacity || bytes <= w->shown) return 0;
    const char *from = w->out + w->size + w->shown;
    const size_t fresh = bytes - w->shown;
    w->shown = bytes;
    return w->options->piece(w->options->user, from, fresh);
}

/* Shows the tokens so far, unless they end in the middle of a character. */
static int show_tokens(void *told, const int32_t *tokens, int count) {
    Writer *w = (Writer *)told;
    const int bytes = decode(w->model, tokens, count, w->out, w->size, w->capacity);
    if (bytes < 0 || w->size + (size_t)bytes > w->capacity) return 0;
    const int broken = bytes >= 3 && !memcmp(w->out + w->size + bytes - 3, "\xEF\xBF\xBD", 3);
    return broken ? 0 : show(w, (size_t)bytes);
}

/* Writes the translation of one sentence. */
static int translate_sentence(Writer *w, const char *text, size_t bytes) {
    minitx_model *m = w->model;
    Request r;
    double score;
    const int count = tokenize(m, text, bytes, (int32_t *)m->areas[SOURCE_TOKENS], m->limits.source);
    if (count < 0 || count > m->limits.source) return count < 0 ? -count : MINITX_LONG;
    int failed = request(m, w->options, count, &r);
    if (failed || !count) return failed;
    w->shown = 0;
    if (w->options && w->options->piece) {
        r.token = show_tokens;
        r.told = w;
    }
    const int length = search(m, count, &r, &score);
    if (length < 0) return -length;
    const int written = decode(m, m->found, length, w->out, w->size, w->capacity);
    if (written < 0) return MINITX_TOKEN;
    if (show(w, (size_t)written)) return MINITX_STOPPED;
    w->size += (size_t)written;
    return MINITX_OK;
}

/* Writes what stands between sentences. */
static int copy(Writer *w, const char *text, size_t bytes) {
    if (bytes && w->size + bytes <= w->capacity) memcpy(w->out + w->size, text, bytes);
    w->shown = 0;
    const int stopped = show(w, bytes);
    w->size += bytes;
    return stopped ? MINITX_STOPPED : MINITX_OK;
}

int minitx_translate(minitx_model *m, const char *text, size_t bytes, const minitx_options *options, char *out,
                     size_t capacity, size_t *needed) {
    Writer w = {m, options, out, 0, capacity, 0};
    if (needed) *needed = 0;
    for (size_t at = 0; at < bytes;) {
        const char *end = (const char *)memchr(text + at, '\n', bytes - at);
        const size_t line = end ? (size_t)(end - text) - at : bytes - at;
        int failed = translate_sentence(&w, text + at, line);
        if (!failed && end) failed = copy(&w, "\n", 1);
        if (failed) return failed;
        at += line + (end != NULL);
    }
    if (needed) *needed = w.size + 1;
    if (w.size >= capacity) return MINITX_OUTPUT;
    out[w.size] = '\0';
    return MINITX_OK;
}

int minitx_decode(const minitx_model *m, const int32_t *ids, int count, char *out, size_t capacity, size_t *needed) {
    const int bytes = decode(m, ids, count, out, 0, capacity);
    if (needed) *needed = bytes < 0 ? 0 : (size_t)bytes + 1;
    if (bytes < 0) return bytes == TOKENIZER_ID ? MINITX_TOKEN : MINITX_LONG;
    if ((size_t)bytes >= capacity) return MINITX_OUTPUT;
    out[bytes] = '\0';
    return MINITX_OK;
}
