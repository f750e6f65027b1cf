/* What the generated files of a package and package.c know of each other, and the head of a weight file. */
#ifndef MINITX_MODEL_H
#define MINITX_MODEL_H

#include <stdint.h>

#include "MODEL_NAME.h"
#include "runtime/runtime.h"
#include "tokenizer.h"

/* How many elements an area of the workspace has, for one sentence. */
enum {
    OF_ROWS,   /* the hypotheses */
    OF_SOURCE, /* the source tokens */
    OF_CACHE,  /* the hypotheses at each time */
    OF_CHOSEN  /* the target tokens that the shortlist allows, rounded up to a panel */
};
typedef struct {
    int extent;
    size_t bytes; /* of an element; 0 behind the last area */
} Area;

/* The first areas, which every model has; behind them come those of the model. */
enum {
    SOURCE_TOKENS, POSITIONS, STARTS, CANDIDATES, ALLOWED, TARGET_TOKENS, SOURCES, SLOTS, IDS, SCORES, FIXED_AREAS
};
enum { MAX_AREAS = 1024 };

typedef struct {
    uint64_t fingerprint, weight_bytes;
    int source_vocabulary, target_vocabulary, longest, threads; /* threads: at most */
    const Area *areas;            /* behind the fixed ones */
    const int16_t *buffers[2];    /* of encode and of step: their areas; -1 behind the last */
} Description;
extern const Description minitx_description;

/* A weight file begins with this, in the byte order of the machine. Sections begin at multiples of 64. The checksum is
 * the sum of the file's 64-bit words from `fingerprint` on, each times 2 * its index + 1. */
enum { WEIGHTS, SOURCE_TOKENIZER, TARGET_TOKENIZER, SHORTLIST, SECTIONS };
typedef struct {
    char magic[8];
    uint32_t version, order;
    uint64_t checksum, fingerprint, bytes;
    struct {
        uint64_t offset, bytes;
    } sections[SECTIONS];
    int32_t start, end, beam, penalty; /* see `Generation` in minitx/config.py */
    double alpha, length_factor;
    int32_t always, number; /* of the shortlist: how many tokens it always allows, and bytes of an id, 2 or 4 */
} Head;
enum { FORMAT = 1, BYTE_ORDER_MARK = 0x01020304 };

struct minitx_model {
    const Head *head;
    const uint8_t *weights;
    minitx_limits limits;
    Tokenizer source, target;
    const Set *set;
    Team *team;
    const uint32_t *starts; /* of a shortlist: where the ids of each source token begin; NULL: there is none */
    const uint8_t *allowed; /* these ids */
    int chosen;             /* target tokens that it allows a source, at most */
    void **areas, **buffers[2];
    uint8_t *arena, *scratch, *room, *search;
    size_t scratch_stride, room_bytes;
    int32_t *found; /* tokens of a hypothesis */
    int32_t sizes[8];
    Limits bounds; /* of the search that minitx_begin began; no tokens at most: none is under way */
    void *memory, *map; /* what minitx_close gives back */
    size_t map_bytes;
};

/* A sentence that is searched, and how it is told of. */
typedef struct {
    Options options;
    Limits limits;
    int (*token)(void *told, const int32_t *tokens, int count); /* of greedy search, may be NULL */
    void *told;
} Request;

/* An id of a shortlist. */
static inline uint32_t shortlist_id(const minitx_model *model, uint32_t at) {
    return model->head->number == 2 ? ((const uint16_t *)(const void *)model->allowed)[at]
                                    : ((const uint32_t *)(const void *)model->allowed)[at];
}

/* Checks weights and limits, and notes what is where in a model that is all zeros. */
int minitx_examine(minitx_model *model, const void *weights, size_t bytes, const minitx_limits *limits);

/* Gives the parts of an examined model their places in a workspace, and its size; NULL: only that, 0 if too large. */
size_t minitx_arrange(minitx_model *model, uint8_t *workspace);

/* Starts an arranged model in its workspace. */
minitx_model *minitx_start(const minitx_model *model, void *workspace);

/* Checks a source of so many tokens, puts it in SOURCE_TOKENS, and notes what the options ask for. */
int minitx_take(minitx_model *model, const int32_t *source, int count, const minitx_options *options, Request *request);

/* Notes which target tokens the shortlist allows the source: `choose` of minitx/engines/native.py. */
void minitx_allow(minitx_model *model, int count);

/* Gives the caller the tokens in `found`, so many of them, or minus an error. */
int minitx_give(const minitx_model *model, int length, int32_t *target, int capacity, int *needed);

#endif
