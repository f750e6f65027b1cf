/* Runs the functions of a plan, for the native engine. No global state: every model that is open has its own team of
 * threads (see team.c). A process that was forked has none of them: they are started anew.
 */
#include "runtime/runtime.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/sizes.h"

#define EXPORT __attribute__((visibility("default")))
enum { ALIGNMENT = 64, OUT_OF_MEMORY = 1 };
enum { STEP = 1 }; /* among the functions of a plan */

typedef struct {
    Team *team;
    const Set *set;
    const uint8_t *weights;
    pthread_mutex_t lock; /* one run at a time */
    pid_t process;
    int threads;
    uint8_t *arena, *scratch;
    size_t arena_bytes, scratch_bytes;
    int64_t *times; /* see minitx_time */
} Model;

/* Makes room for `needed` bytes, without keeping what was there. */
static int reserve(uint8_t **memory, size_t *bytes, size_t needed) {
    if (needed <= *bytes) return 0;
    free(*memory);
    needed = (needed + needed / 4 + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    *memory = aligned_alloc(ALIGNMENT, needed);
    *bytes = *memory ? needed : 0;
    return *memory ? 0 : OUT_OF_MEMORY;
}

static int prepare(Model *model, int function, const int32_t *sizes) {
    if (!model->team) {
        void *memory = aligned_alloc(ALIGNMENT, team_bytes());
        if (!memory) return OUT_OF_MEMORY;
        model->team = team_start(memory, model->threads);
    }
    int keys = sizes[LONGEST] > sizes[POSITION] + 1 ? sizes[LONGEST] : sizes[POSITION] + 1;
    size_t scratch = (model->set->scratch(keys) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return reserve(&model->scratch, &model->scratch_bytes, scratch * (size_t)team_size(model->team))
        || reserve(&model->arena, &model->arena_bytes, minitx_arena[function] * (size_t)sizes[ROWS]);
}

/* The set called `name`, or the best that the processor has; NULL if there is none. */
static const Set *choose(const char *name) {
    for (const Set *set = minitx_sets; set->name; set++)
        if (set->supported() && (!name || !strcmp(name, set->name))) return set;
    return NULL;
}

EXPORT const char *minitx_set(const void *model) { return ((const Model *)model)->set->name; }

/* A model over these weights, which must stay where they are; NULL without memory or without that set. */
EXPORT void *minitx_open(const uint8_t *weights, int threads, const char *set) {
    Model *model = calloc(1, sizeof *model);
    if (!model) return NULL;
    *model = (Model){.set = choose(set), .weights = weights, .process = getpid(), .threads = threads};
    pthread_mutex_init(&model->lock, NULL);
    if (model->set) return model;
    free(model);
    return NULL;
}

/* Runs a function of the plan; 0, or why it could not. Callers in several threads wait for each other. */
EXPORT int minitx_run(void *opened, int function, void *const *buffers, const int32_t *sizes) {
    Model *model = opened;
    if (model->process != getpid()) { /* forked: neither the team nor who held the lock is here */
        model->process = getpid();
        model->team = NULL;
        pthread_mutex_init(&model->lock, NULL);
    }
    pthread_mutex_lock(&model->lock);
    int failed = prepare(model, function, sizes);
    if (!failed) {
        size_t stride = model->scratch_bytes / (size_t)team_size(model->team) / ALIGNMENT * ALIGNMENT;
        Run run = {model->weights, model->arena, model->scratch, stride, buffers, sizes, 0, model->team, model->times};
        team_run(model->team, model->set->functions[function], &run);
    }
    pthread_mutex_unlock(&model->lock);
    return failed;
}

/* From now on, adds the nanoseconds of each call of a function to `times`, and behind those of all calls what the first
 * thread waited for the others; or no more, where it is NULL. */
EXPORT void minitx_time(void *opened, int64_t *times) { ((Model *)opened)->times = times; }

static int run_step(void *opened, void *const *buffers, const int32_t *sizes) {
    return minitx_run(opened, STEP, buffers, sizes);
}

/* Bytes of memory for a search: see runtime/search.h. */
EXPORT size_t minitx_search_bytes(int sentences, int beam, int length) {
    return search_bytes(&minitx_layout, sentences, beam, length);
}

/* Begins a search in that memory, over the buffers and sizes of a step; all of these have to stay. */
EXPORT void minitx_search_start(void *opened, void *memory, void *const *buffers, int32_t *sizes,
                                const Options *options, const Limits *limits) {
    search_start(memory, &(Step){run_step, opened, &minitx_layout, buffers, sizes}, options, limits);
}

/* Searches until it is done or so many nanoseconds went by, one step at least; what the last step gave. Searches in
 * several threads take turns at each step. */
EXPORT int minitx_search(void *memory, int64_t budget) {
    const int64_t until = nanoseconds() + budget;
    int status;
    do status = search_step(memory);
    while (status == SEARCH_GOES_ON && nanoseconds() < until);
    return status;
}

/* One of the hypotheses that a search found: see runtime/search.h. */
EXPORT int minitx_hypothesis(const void *memory, int sentence, int rank, int32_t *tokens, double *score) {
    return search_hypothesis(memory, sentence, rank, tokens, score);
}

EXPORT void minitx_close(void *opened) {
    Model *model = opened;
    if (model->team && model->process == getpid()) {
        team_stop(model->team);
        free(model->team);
    }
    free(model->arena);
    free(model->scratch);
    free(model);
}
