/* Text to text with an open model, one sentence at a time: minitx/model.py in C. */
#include <string.h>

#include "model.h"
#include "split.h"

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
    [MINITX_LONG] = "a sentence or its translation is too long; let it be split, or open the model with greater limits",
    [MINITX_OUTPUT] = "the output is longer than its buffer; give the size that is needed",
    [MINITX_NAN] = "the model gives no numbers; its weights are damaged, export it again",
    [MINITX_STOPPED] = "stopped by the callback",
    [MINITX_NONE] = "there are not so many hypotheses; ask for a lower one, or search with a greater beam",
    [MINITX_BEGIN] = "no search was begun; call minitx_begin first",
    [MINITX_NOT_LINKED] = "no weights are linked in; open a weight file, or export with --embed",
};

const char *minitx_message(int error) {
    return error >= 0 && error < MINITX_ERRORS ? MESSAGES[error] : "an unknown error";
}

size_t minitx_replaced(const char *text, size_t bytes) { return tokenizer_replaced(text, bytes); }

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

/* Where texts are written, one behind another. `sizes` go on counting where there is no more room. */
typedef struct {
    minitx_model *model;
    const minitx_options *options;
    const char *text;
    char *out;
    size_t size, capacity; /* of all texts so far */
    size_t sizes[MAX_BEAM];
    double scores[MAX_BEAM];
    int best, texts;                /* how many are wanted at most, how many there are so far */
    size_t shown;                   /* of the sentence under way: bytes that the callback was told */
    size_t tokenized, tokenized_to; /* whose tokens are in SOURCE_TOKENS */
    int tokens;                     /* how many they are, or minus an error */
} Writer;

/* Makes room for bytes at the end of a text, and gives their place; NULL where there is no more room, or for none. */
static char *extend(Writer *w, int text, size_t bytes) {
    size_t at = 0;
    for (int i = 0; i <= text; i++) at += w->sizes[i];
    const int fits = bytes && w->size <= w->capacity && bytes <= w->capacity - w->size;
    if (fits) memmove(w->out + at + bytes, w->out + at, w->size - at);
    w->sizes[text] += bytes;
    w->size += bytes;
    return fits ? w->out + at : NULL;
}

/* From now on there are so many texts: what is new begins as the last one is. */
static void fork(Writer *w, int texts) {
    for (; w->texts < texts; w->texts++) {
        const int last = w->texts - 1;
        const size_t bytes = w->sizes[last], from = w->size - bytes;
        w->sizes[w->texts] = 0;
        w->scores[w->texts] = w->scores[last];
        char *to = extend(w, w->texts, bytes);
        if (to) memcpy(to, w->out + from, bytes);
    }
}

static int decode(const minitx_model *m, const int32_t *ids, int count, char *out, size_t size, size_t capacity) {
    return tokenizer_decode(&m->target, ids, count, size < capacity ? out + size : NULL,
                            size < capacity ? capacity - size : 0);
}

/* Tells the callback what it was not told of so many bytes from a place on. */
static int show(Writer *w, size_t from, size_t bytes) {
    if (!w->options || !w->options->piece || w->best > 1 || from + bytes > w->capacity || bytes <= w->shown) return 0;
    const size_t shown = w->shown;
    w->shown = bytes;
    return w->options->piece(w->options->user, w->out + from + shown, bytes - shown);
}

/* Shows the tokens so far, unless they end in the middle of a character. */
static int show_tokens(void *told, const int32_t *tokens, int count) {
    Writer *w = (Writer *)told;
    const int bytes = decode(w->model, tokens, count, w->out, w->size, w->capacity);
    if (bytes < 0 || w->size + (size_t)bytes > w->capacity) return 0;
    const int broken = bytes >= 3 && !memcmp(w->out + w->size + bytes - 3, "\xEF\xBF\xBD", 3);
    return broken ? 0 : show(w, w->size, (size_t)bytes);
}

/* Writes the hypotheses of a sentence, each at the end of its text. */
static int write_hypotheses(Writer *w) {
    minitx_model *m = w->model;
    const int count = m->searched;
    int length = 0;
    double score = 0;
    fork(w, count < w->best ? count : w->best);
    for (int i = 0; i < w->texts; i++) {
        if (i < count) minitx_hypothesis(m, i, NULL, 0, &length, &score);
        const int bytes = decode(m, m->found, length, w->out, w->size, w->best > 1 ? 0 : w->capacity);
        if (bytes < 0) return MINITX_TOKEN;
        if (show(w, w->size, (size_t)bytes)) return MINITX_STOPPED;
        char *to = extend(w, i, (size_t)bytes);
        if (to && w->best > 1) decode(m, m->found, length, to, 0, (size_t)bytes);
        w->scores[i] += score;
    }
    return MINITX_OK;
}

/* Writes white space behind every text. */
static int write_space(Writer *w, const char *space, size_t bytes) {
    for (int i = 0; i < w->texts; i++) {
        char *to = extend(w, i, bytes);
        if (to) memcpy(to, space, bytes);
    }
    w->shown = 0;
    return show(w, w->size - bytes, bytes) ? MINITX_STOPPED : MINITX_OK;
}

static int fits(void *asked, size_t start, size_t end) {
    Writer *w = (Writer *)asked;
    minitx_model *m = w->model;
    w->tokens = tokenize(m, w->text + start, end - start, (int32_t *)m->areas[SOURCE_TOKENS], m->limits.source);
    w->tokenized = start;
    w->tokenized_to = end;
    return w->tokens >= 0 && w->tokens <= m->limits.source;
}

/* Writes the translation of a part of the text, and the white space behind it. */
static int translate_part(Writer *w, Part part) {
    Request r;
    if (w->tokenized != part.start || w->tokenized_to != part.end) fits(w, part.start, part.end);
    if (w->tokens < 0 || w->tokens > w->model->limits.source) return w->tokens < 0 ? -w->tokens : MINITX_LONG;
    int failed = minitx_request(w->model, w->options, w->best, w->tokens, &r);
    if (!failed && w->tokens) {
        if (w->options && w->options->piece && w->best == 1) r.token = show_tokens;
        r.told = w;
        w->shown = 0;
        failed = minitx_search(w->model, w->tokens, &r);
        if (!failed) failed = write_hypotheses(w);
    }
    return failed ? failed : write_space(w, w->text + part.end, part.after - part.end);
}

/* Writes the translation of a sentence, in parts where it is too long. */
static int translate_sentence(Writer *w, Part sentence) {
    size_t guess = SPLIT_GUESS;
    for (size_t at = sentence.start; at < sentence.end;) {
        Part part = split_part((const uint8_t *)w->text, at, sentence.end, &guess, fits, w);
        at = part.after;
        if (at == sentence.end) part.after = sentence.after;
        const int failed = translate_part(w, part);
        if (failed) return failed;
    }
    return sentence.start < sentence.end ? MINITX_OK : translate_part(w, sentence);
}

static int translate_lines(Writer *w, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
        const char *end = (const char *)memchr(w->text + at, '\n', bytes - at);
        const size_t stop = end ? (size_t)(end - w->text) : bytes;
        const int failed = translate_part(w, (Part){at, stop, stop + (end != NULL)});
        if (failed) return failed;
        at = stop + (end != NULL);
    }
    return MINITX_OK;
}

static int translate_sentences(Writer *w, size_t bytes) {
    Sentences sentences = {.text = (const uint8_t *)w->text, .bytes = bytes};
    Part sentence;
    while (split_sentence(&sentences, &sentence)) {
        const int failed = translate_sentence(w, sentence);
        if (failed) return failed;
    }
    return MINITX_OK;
}

/* Puts a NUL behind each text. */
static int finish(Writer *w, size_t *needed) {
    const size_t whole = w->size + (size_t)w->texts;
    if (needed) *needed = whole;
    if (whole > w->capacity) return MINITX_OUTPUT;
    size_t at = w->size;
    for (int i = w->texts - 1; i >= 0; i--) {
        at -= w->sizes[i];
        memmove(w->out + at + i, w->out + at, w->sizes[i]);
        w->out[at + (size_t)i + w->sizes[i]] = '\0';
    }
    return MINITX_OK;
}

static int translate(Writer *w, size_t bytes, size_t *needed) {
    const minitx_options *o = w->options;
    Request r;
    if (needed) *needed = 0;
    int failed = minitx_request(w->model, o, w->best, 1, &r);
    if (!failed) failed = o && o->no_split ? translate_lines(w, bytes) : translate_sentences(w, bytes);
    return failed ? failed : finish(w, needed);
}

int minitx_translate(minitx_model *m, const char *text, size_t bytes, const minitx_options *options, char *out,
                     size_t capacity, size_t *needed) {
    Writer w = {m, options, text, out, .capacity = capacity, .best = 1, .texts = 1, .tokenized = SIZE_MAX};
    return translate(&w, bytes, needed);
}

int minitx_translate_best(minitx_model *m, const char *text, size_t bytes, const minitx_options *options, int best,
                          char *out, size_t capacity, size_t *needed, minitx_translation *translations, int *found) {
    Writer w = {m, options, text, out, .capacity = capacity, .best = best, .texts = 1, .tokenized = SIZE_MAX};
    const int failed = translate(&w, bytes, needed);
    *found = failed ? 0 : w.texts;
    for (int i = 0; i < *found; i++) {
        translations[i] = (minitx_translation){out, w.sizes[i], w.scores[i]};
        out += w.sizes[i] + 1;
    }
    return failed;
}

int minitx_decode(const minitx_model *m, const int32_t *ids, int count, char *out, size_t capacity, size_t *needed) {
    const int bytes = decode(m, ids, count, out, 0, capacity);
    if (needed) *needed = bytes < 0 ? 0 : (size_t)bytes + 1;
    if (bytes < 0) return bytes == TOKENIZER_ID ? MINITX_TOKEN : MINITX_LONG;
    if ((size_t)bytes >= capacity) return MINITX_OUTPUT;
    out[bytes] = '\0';
    return MINITX_OK;
}
