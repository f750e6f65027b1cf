/* What an open model is made of: weights and limits are checked, and everything gets its place in one workspace. */
#include <math.h>
#include <string.h>

#include "kernels/sizes.h"
#include "model.h"

_Static_assert((int)MINITX_MAX_BEAM == (int)MAX_BEAM, "the interface and the search have the same limit");
enum { LINE = 64, PANEL = 16, DEFAULT_BEAM = 4, BYTES_OF_TOKEN = 16 };

/* The sum of words, each times 2 * its index + 1. */
static uint64_t checksum(const uint64_t *words, size_t count) {
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) sum += words[i] * (2 * (uint64_t)i + 1);
    return sum;
}

/* Whether this is a whole weight file for this code. */
static int check_file(const Head *head, size_t bytes) {
    static const char magic[8] = {'m', 'i', 'n', 'i', 't', 'x', 'w', '\0'};
    const size_t before = offsetof(Head, fingerprint);
    if ((uintptr_t)head % LINE) return MINITX_NOT_WEIGHTS;
    if (bytes < sizeof magic || memcmp(head->magic, magic, sizeof magic)) return MINITX_NOT_WEIGHTS;
    if (bytes < sizeof *head) return MINITX_TRUNCATED;
    if (head->order != BYTE_ORDER_MARK) return MINITX_NOT_WEIGHTS;
    if (head->version != FORMAT) return MINITX_VERSION;
    if (head->fingerprint != minitx_description.fingerprint) return MINITX_OTHER_MODEL;
    if (head->bytes != bytes) return MINITX_TRUNCATED;
    if (bytes % sizeof(uint64_t)) return MINITX_DAMAGED;
    if (head->checksum != checksum(&head->fingerprint, (bytes - before) / sizeof(uint64_t))) return MINITX_DAMAGED;
    for (int i = 0; i < SECTIONS; i++) {
        const uint64_t offset = head->sections[i].offset;
        if (offset % LINE || offset > bytes || head->sections[i].bytes > bytes - offset) return MINITX_DAMAGED;
    }
    return head->sections[WEIGHTS].bytes == minitx_description.weight_bytes ? MINITX_OK : MINITX_DAMAGED;
}

static int check_generation(const Head *h) {
    const Description *d = &minitx_description;
    const int tokens = h->start >= -1 && h->start < d->target_vocabulary && h->end >= 0
        && h->end < d->source_vocabulary && h->end < d->target_vocabulary;
    const int search = h->beam >= 1 && h->beam <= MAX_BEAM && h->penalty >= PENALTY_POWER && h->penalty <= PENALTY_WU;
    return tokens && search && h->alpha >= 0 && h->alpha <= 10 && h->length_factor > 0 && h->length_factor <= 100;
}

/* Whether the shortlist, if there is one, names tokens of the vocabulary alone; notes where it is. */
static int check_shortlist(minitx_model *m) {
    const Description *d = &minitx_description;
    const uint64_t bytes = m->head->sections[SHORTLIST].bytes, sources = (uint64_t)d->source_vocabulary;
    const int32_t always = m->head->always, number = m->head->number;
    if (!bytes) return 1;
    if (always < 0 || always > d->target_vocabulary || (number != 2 && number != 4)) return 0;
    if (bytes < (sources + 1) * sizeof *m->starts) return 0;
    m->starts = (const uint32_t *)(const void *)((const uint8_t *)m->head + m->head->sections[SHORTLIST].offset);
    m->allowed = (const uint8_t *)(m->starts + sources + 1);
    const uint64_t count = (bytes - (sources + 1) * sizeof *m->starts) / (uint64_t)number;
    uint32_t most = 0;
    if (m->starts[0] || m->starts[sources] > count) return 0;
    for (uint64_t i = 0; i < sources; i++) {
        if (m->starts[i] > m->starts[i + 1]) return 0;
        if (m->starts[i + 1] - m->starts[i] > most) most = m->starts[i + 1] - m->starts[i];
    }
    for (uint32_t i = 0; i < m->starts[sources]; i++)
        if (shortlist_id(m, i) >= (uint32_t)d->target_vocabulary) return 0;
    const uint64_t all = (uint64_t)always + 1 + (uint64_t)m->limits.source * most;
    const uint64_t half = (uint64_t)d->target_vocabulary / 2; /* of more the whole vocabulary is gone through */
    m->chosen = (int)(all < half ? all : half);
    return 1;
}

static int check_tokenizer(const minitx_model *m, int section, Tokenizer *tokenizer, int vocabulary) {
    const uint8_t *data = (const uint8_t *)m->head + m->head->sections[section].offset;
    if (tokenizer_open(tokenizer, data, (size_t)m->head->sections[section].bytes)) return 0;
    return tokenizer->vocabulary == (uint32_t)vocabulary;
}

/* Limits with all defaults in place, or -1 in `source`. */
static minitx_limits checked(const minitx_limits *given, int beam) {
    minitx_limits l = given ? *given : (minitx_limits){0};
    const int longest = minitx_description.longest;
    if (!l.source) l.source = longest;
    if (!l.target) l.target = longest;
    if (!l.beam) l.beam = beam > DEFAULT_BEAM ? beam : DEFAULT_BEAM;
    if (!l.threads) l.threads = 1;
    const int fits = l.source >= 1 && l.source <= longest && l.target >= 1 && l.target <= longest && l.beam >= 1
        && l.beam <= MAX_BEAM && l.threads >= 1 && l.threads <= minitx_description.threads;
    if (!fits) l.source = -1;
    return l;
}

int minitx_examine(minitx_model *m, const void *weights, size_t bytes, const minitx_limits *limits) {
    m->head = (const Head *)weights;
    const int failed = check_file(m->head, bytes);
    if (failed) return failed;
    if (!check_generation(m->head)) return MINITX_DAMAGED;
    m->limits = checked(limits, m->head->beam);
    if (m->limits.source < 0) return MINITX_LIMITS;
    m->weights = (const uint8_t *)weights + m->head->sections[WEIGHTS].offset;
    const int whole = check_shortlist(m)
        && check_tokenizer(m, SOURCE_TOKENIZER, &m->source, minitx_description.source_vocabulary)
        && check_tokenizer(m, TARGET_TOKENIZER, &m->target, minitx_description.target_vocabulary);
    if (!whole) return MINITX_DAMAGED;
    for (m->set = minitx_sets; m->set->name && !m->set->supported(); m->set++) {}
    return m->set->name ? MINITX_OK : MINITX_PROCESSOR;
}

/* A workspace that is being handed out; `base` is NULL where only the size is wanted. */
typedef struct {
    uint8_t *base;
    uint64_t size;
} Places;

static void *place(Places *places, uint64_t count, uint64_t bytes) {
    uint8_t *at = places->base ? places->base + places->size : NULL;
    places->size += (count * bytes + LINE - 1) / LINE * LINE;
    return at;
}

/* Bytes of each area, by its number. */
static uint64_t area_bytes(const minitx_model *m, int area) {
    const uint64_t source = (uint64_t)m->limits.source, rows = (uint64_t)m->limits.beam;
    const uint64_t cache = rows * (uint64_t)m->limits.target;
    const uint64_t chosen = (uint64_t)rounded(m->chosen, PANEL), number = sizeof(int32_t);
    const uint64_t all = (uint64_t)rounded(minitx_description.target_vocabulary, PANEL);
    switch (area) {
    case SOURCE_TOKENS:
    case POSITIONS: return source * number;
    case STARTS: return 2 * number;
    case CANDIDATES: return chosen * number;
    case ALLOWED: return m->starts ? all / 8 : 0;
    case TARGET_TOKENS:
    case SOURCES: return rows * number;
    case SLOTS: return cache * number;
    case IDS:
    case SCORES: return rows * (rows + 1) * number;
    default: break;
    }
    const uint64_t counts[] = {[OF_ROWS] = rows, [OF_SOURCE] = source, [OF_CACHE] = cache, [OF_CHOSEN] = chosen};
    const Area *own = &minitx_description.areas[area - FIXED_AREAS];
    return counts[own->extent] * own->bytes;
}

size_t minitx_arrange(minitx_model *m, uint8_t *workspace) {
    const Description *d = &minitx_description;
    const minitx_limits l = m->limits;
    Places places = {workspace, 0};
    int count = FIXED_AREAS;
    while (d->areas[count - FIXED_AREAS].bytes) count++;
    place(&places, 1, sizeof *m);
    m->areas = (void **)place(&places, (uint64_t)count, sizeof *m->areas);
    for (int i = 0; i < count; i++) {
        void *at = place(&places, 1, area_bytes(m, i));
        if (workspace) m->areas[i] = at;
    }
    for (int f = 0; f < 2; f++) {
        int given = 0;
        while (d->buffers[f][given] >= 0) given++;
        m->buffers[f] = (void **)place(&places, (uint64_t)given, sizeof *m->buffers[f]);
        for (int i = 0; workspace && i < given; i++) m->buffers[f][i] = m->areas[d->buffers[f][i]];
    }
    const uint64_t encode = minitx_arena[0] * (uint64_t)l.source, step = minitx_arena[1] * (uint64_t)l.beam;
    m->arena = (uint8_t *)place(&places, 1, encode > step ? encode : step);
    const size_t scratch = m->set->scratch(l.source > l.target ? l.source : l.target);
    m->scratch_stride = (scratch + LINE - 1) / LINE * LINE;
    m->scratch = (uint8_t *)place(&places, (uint64_t)l.threads, m->scratch_stride);
    m->room_bytes = tokenizer_workspace(&m->source, (size_t)l.source * BYTES_OF_TOKEN);
    m->room = (uint8_t *)place(&places, 1, m->room_bytes);
    m->search = (uint8_t *)place(&places, 1, search_bytes(&minitx_layout, 1, l.beam, l.target));
    m->found = (int32_t *)place(&places, (uint64_t)l.target, sizeof *m->found);
    m->team = (Team *)place(&places, 1, team_bytes());
    return places.size < SIZE_MAX / 2 ? (size_t)places.size : 0;
}

minitx_model *minitx_start(const minitx_model *arranged, void *workspace) {
    minitx_model *m = (minitx_model *)workspace;
    *m = *arranged;
    m->team = team_start(m->team, m->limits.threads);
    return m;
}

int minitx_workspace(const void *weights, size_t bytes, const minitx_limits *limits, size_t *needed) {
    minitx_model examined = {0};
    const int failed = minitx_examine(&examined, weights, bytes, limits);
    *needed = failed ? 0 : minitx_arrange(&examined, NULL);
    return failed ? failed : *needed ? MINITX_OK : MINITX_NO_MEMORY;
}

int minitx_open_in(minitx_model **model, const void *weights, size_t bytes, const minitx_limits *limits,
                   void *workspace, size_t workspace_bytes) {
    minitx_model examined = {0};
    *model = NULL;
    const int failed = minitx_examine(&examined, weights, bytes, limits);
    if (failed) return failed;
    const size_t needed = minitx_arrange(&examined, NULL);
    if (!needed || workspace_bytes < needed || (uintptr_t)workspace % LINE) return MINITX_WORKSPACE;
    minitx_arrange(&examined, (uint8_t *)workspace);
    *model = minitx_start(&examined, workspace);
    return MINITX_OK;
}

const char *minitx_set(const minitx_model *model) { return model->set->name; }

void minitx_about(const minitx_model *m, minitx_facts *facts) {
    const Description *d = &minitx_description;
    *facts = (minitx_facts){m->limits, d->source_vocabulary, d->target_vocabulary, m->head->start, m->head->end,
                            m->head->beam};
}
