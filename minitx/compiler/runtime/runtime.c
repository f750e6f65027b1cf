/* Runs the functions of a plan on a team of threads. No global state: every model that is open has its own team.
 *
 * The caller is thread 0 of the team; the others wait for work, first spinning, since the next step of a search comes
 * within microseconds, then asleep. A process that was forked has none of them: they are started anew.
 *
 * On a machine that is busy with something else, a thread that lost its core lets all others wait for a time slice of
 * milliseconds at the next barrier. So each thread compares the time that went by in a job with the time that it had a
 * core; where one lost a tenth, jobs are done by the caller alone for a while, which is twice as long each time that it
 * happens again.
 */
#include "runtime/runtime.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/kernels.h" /* the enum of sizes, MAX_THREADS */

#define EXPORT __attribute__((visibility("default")))
enum { SPINS_FOR_WORK = 4000, SPINS_FOR_OTHERS = 2000, ALIGNMENT = 64, OUT_OF_MEMORY = 1 };
enum { STEP = 1 }; /* among the functions of a plan */
enum { LEAST_ALONE = 4000000, MOST_ALONE = 256000000 }; /* nanoseconds */

struct Team {
    int size, stopping;
    int64_t alone_until, alone_for; /* until when the caller does jobs alone; for how long it will be the next time */
    const Run *run;
    Function function;
    pthread_t threads[MAX_THREADS];
    pthread_mutex_t sleep;
    pthread_cond_t wake;
    _Alignas(ALIGNMENT) atomic_uint jobs;     /* grows by one for each job */
    _Alignas(ALIGNMENT) atomic_uint sleeping; /* threads that have to be woken for it */
    _Alignas(ALIGNMENT) atomic_uint arrived;  /* at the barrier */
    _Alignas(ALIGNMENT) atomic_uint passed;   /* barriers so far */
    _Alignas(ALIGNMENT) atomic_uint starved;  /* threads that lost their core for a while in this job */
};

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

typedef struct {
    Team *team;
    int thread;
} Member;

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds_of(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t nanoseconds(void) { return nanoseconds_of(CLOCK_MONOTONIC); }

/* Does a thread's part of the job, and tells if it lost its core. */
static void take_part(Team *team, int thread) {
    int64_t wall = nanoseconds(), own = nanoseconds_of(CLOCK_THREAD_CPUTIME_ID);
    team->function(team->run, thread);
    own = nanoseconds_of(CLOCK_THREAD_CPUTIME_ID) - own;
    wall = nanoseconds() - wall;
    if (wall - own > wall / 10 + 20000) atomic_fetch_add(&team->starved, 1);
    team_wait(team);
}

/* How the job after this one is done. */
static void look_back(Team *team) {
    if (atomic_exchange(&team->starved, 0)) {
        team->alone_until = nanoseconds() + team->alone_for;
        if (team->alone_for < MOST_ALONE) team->alone_for *= 2;
    } else {
        team->alone_for = LEAST_ALONE;
    }
}

void team_wait(Team *team) {
    if (team->run->threads == 1) return;
    unsigned passed = atomic_load_explicit(&team->passed, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) == (unsigned)team->size - 1) {
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team->passed, passed + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&team->passed, memory_order_acquire) == passed; spins++) {
        if (spins < SPINS_FOR_OTHERS) relax();
        else sched_yield(); /* another one has no core now: it may have ours */
    }
}

/* Waits for a job after the one numbered `seen`. */
static unsigned next_job(Team *team, unsigned seen) {
    for (int spins = 0; spins < SPINS_FOR_WORK; spins++) {
        unsigned job = atomic_load_explicit(&team->jobs, memory_order_acquire);
        if (job != seen) return job;
        relax();
    }
    pthread_mutex_lock(&team->sleep);
    atomic_fetch_add(&team->sleeping, 1);
    while (atomic_load(&team->jobs) == seen) pthread_cond_wait(&team->wake, &team->sleep);
    atomic_fetch_sub(&team->sleeping, 1);
    pthread_mutex_unlock(&team->sleep);
    return atomic_load(&team->jobs);
}

static void *work(void *argument) {
    Member member = *(Member *)argument;
    free(argument);
    for (unsigned seen = 0;;) {
        seen = next_job(member.team, seen);
        if (member.team->stopping) return NULL;
        take_part(member.team, member.thread);
    }
}

static void start_job(Team *team) {
    atomic_fetch_add(&team->jobs, 1);
    if (atomic_load(&team->sleeping)) {
        pthread_mutex_lock(&team->sleep);
        pthread_cond_broadcast(&team->wake);
        pthread_mutex_unlock(&team->sleep);
    }
}

static void team_stop(Team *team) {
    team->stopping = 1;
    start_job(team);
    for (int i = 1; i < team->size; i++) pthread_join(team->threads[i], NULL);
    free(team);
}

/* A team of so many threads, or of fewer if the system gives no more; NULL without memory. */
static Team *team_start(int size) {
    Team *team = aligned_alloc(ALIGNMENT, (sizeof(Team) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    if (!team) return NULL;
    memset(team, 0, sizeof *team);
    team->alone_for = LEAST_ALONE;
    pthread_mutex_init(&team->sleep, NULL);
    pthread_cond_init(&team->wake, NULL);
    for (team->size = 1; team->size < size; team->size++) {
        Member *member = malloc(sizeof *member);
        if (!member) break;
        *member = (Member){team, team->size};
        if (pthread_create(&team->threads[team->size], NULL, work, member)) {
            free(member);
            break;
        }
    }
    return team;
}

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
    if (!model->team) model->team = team_start(model->threads);
    if (!model->team) return OUT_OF_MEMORY;
    int keys = sizes[LONGEST] > sizes[POSITION] + 1 ? sizes[LONGEST] : sizes[POSITION] + 1;
    size_t scratch = (model->set->scratch(keys) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return reserve(&model->scratch, &model->scratch_bytes, scratch * (size_t)model->team->size)
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
        Team *team = model->team;
        size_t stride = model->scratch_bytes / (size_t)team->size / ALIGNMENT * ALIGNMENT;
        int threads = team->alone_until > nanoseconds() ? 1 : team->size;
        Run run = {model->weights, model->arena, model->scratch, stride, buffers, sizes, threads, team,
                   model->times};
        team->run = &run;
        team->function = model->set->functions[function];
        if (threads == 1) {
            team->function(&run, 0);
        } else {
            start_job(team);
            take_part(team, 0);
            look_back(team);
        }
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
    if (model->team && model->process == getpid()) team_stop(model->team);
    free(model->arena);
    free(model->scratch);
    free(model);
}
