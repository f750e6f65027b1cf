/* Greedy and beam search, step by step: what minitx/generation/search.py does, with the same result to the bit.
 *
 * It knows a model by one function and by the buffers of that function. It allocates nothing and has no global state, so
 * a search may be left, and gone on with, after any step.
 */
#ifndef MINITX_SEARCH_H
#define MINITX_SEARCH_H

#include <stddef.h>
#include <stdint.h>

/* A buffer of the step that keeps `bytes`, a multiple of 4, for each row from step to step, and starts with zeros. */
typedef struct {
    int buffer;
    size_t bytes;
} Cell;

/* Which buffers of the step are what, by their numbers. */
typedef struct {
    int tokens, sources, ids, scores;
    int slots;         /* -1: the model has no cache */
    const Cell *cells; /* ends with one of 0 bytes */
    int vocabulary;    /* of the target */
} Layout;

/* One step of a model, which gives the likeliest next tokens, best first. `sizes` is as in kernels/sizes.h; of it the
 * search sets ROWS, POSITION and TOP. CAPACITY has to be at least sentences * beam. */
typedef struct {
    int (*run)(void *model, void *const *buffers, const int32_t *sizes); /* 0, or above 0 why it could not */
    void *model;
    const Layout *layout;
    void *const *buffers;
    int32_t *sizes;
} Step;

enum { MAX_BEAM = 64 };
enum { PENALTY_POWER, PENALTY_WU }; /* in the order of LENGTH_PENALTIES */

/* See `Generation` in minitx/config.py. A beam of 1 is greedy search. */
typedef struct {
    int32_t start, end, beam, penalty;
    double alpha;
} Options;

/* Of one sentence: tokens before the end may come, and tokens at most, 1 or more. */
typedef struct {
    int32_t minimum, maximum;
} Limits;

typedef struct Search Search;
enum { SEARCH_DONE = 0, SEARCH_GOES_ON = -1, SEARCH_NAN = -2 };

/* Bytes of memory for a search of so many sentences, none longer than `length` tokens. */
size_t search_bytes(const Layout *layout, int sentences, int beam, int length);

/* A search in `memory`, aligned for a double. That, `limits` of each sentence, and what `step` points to have to stay. */
Search *search_start(void *memory, const Step *step, const Options *options, const Limits *limits);

/* Does one step: SEARCH_GOES_ON, SEARCH_DONE, SEARCH_NAN where the model gives NaN, or what `run` failed with. */
int search_step(Search *search);

/* The same where the model runs elsewhere, and `run` may be NULL: sets the sizes of a step and readies what it reads,
 * SEARCH_GOES_ON, or SEARCH_DONE where there is none; then, with ids and scores in their buffers, takes it. */
int search_prepare(Search *search);
int search_advance(Search *search);

/* The row that each row of the next step was in the last one. */
const int32_t *search_rows(const Search *search);

/* Writes a sentence's hypothesis, best first from 0, and its score, when the search is done: its tokens without the end.
 * Gives their number, or -1 where there are not so many hypotheses. */
int search_hypothesis(const Search *search, int sentence, int rank, int32_t *tokens, double *score);

#endif
