/* A team of threads that runs functions of a plan, each thread its part.
 *
 * The caller is thread 0 of the team; the others wait for work, first spinning, since the next step of a search comes
 * within microseconds, then asleep.
 *
 * On a machine that is busy with something else, a thread that lost its core lets all others wait for a time slice of
 * milliseconds at the next barrier. So each thread compares the time that went by in a job with the time that it had a
 * core; where one lost a tenth, jobs are done by the caller alone for a while, which is twice as long each time that it
 * happens again.
 */
#include <stdatomic.h>
#include <string.h>

#include "kernels/sizes.h" /* MAX_THREADS */
#include "runtime/runtime.h"
#include "runtime/threads.h"

enum { SPINS_FOR_WORK = 4000, SPINS_FOR_OTHERS = 2000, ALIGNMENT = 64 };
enum { LEAST_ALONE = 4000000, MOST_ALONE = 256000000 }; /* nanoseconds */

typedef struct {
    Team *team;
    int thread;
} Member;

struct Team {
    int size, stopping;
    int64_t alone_until, alone_for; /* until when the caller does jobs alone; for how long it will be the next time */
    const Run *run;
    Function function;
    Thread threads[MAX_THREADS];
    Member members[MAX_THREADS];
    Lock sleep;
    Signal wake;
    _Alignas(ALIGNMENT) atomic_uint jobs;     /* grows by one for each job */
    _Alignas(ALIGNMENT) atomic_uint sleeping; /* threads that have to be woken for it */
    _Alignas(ALIGNMENT) atomic_uint arrived;  /* at the barrier */
    _Alignas(ALIGNMENT) atomic_uint passed;   /* barriers so far */
    _Alignas(ALIGNMENT) atomic_uint starved;  /* threads that lost their core for a while in this job */
};

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || (defined(__arm__) && __ARM_ARCH >= 7)
    __asm__ volatile("yield");
#endif
}

int64_t nanoseconds(void) { return clock_now(); }

/* Does a thread's part of the job, and tells if it lost its core. */
static void take_part(Team *team, int thread) {
    int64_t wall = nanoseconds(), own = clock_of_thread();
    team->function(team->run, thread);
    own = clock_of_thread() - own;
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
        else thread_yield(); /* another one has no core now: it may have ours */
    }
}

/* Waits for a job after the one numbered `seen`. */
static unsigned next_job(Team *team, unsigned seen) {
    for (int spins = 0; spins < SPINS_FOR_WORK; spins++) {
        unsigned job = atomic_load_explicit(&team->jobs, memory_order_acquire);
        if (job != seen) return job;
        relax();
    }
    lock_take(&team->sleep);
    atomic_fetch_add(&team->sleeping, 1);
    while (atomic_load(&team->jobs) == seen) signal_wait(&team->wake, &team->sleep);
    atomic_fetch_sub(&team->sleeping, 1);
    lock_leave(&team->sleep);
    return atomic_load(&team->jobs);
}

THREAD_FUNCTION(work, argument) {
    const Member member = *(const Member *)argument;
    for (unsigned seen = 0;;) {
        seen = next_job(member.team, seen);
        if (member.team->stopping) return THREAD_ENDS;
        take_part(member.team, member.thread);
    }
}

static void start_job(Team *team) {
    atomic_fetch_add(&team->jobs, 1);
    if (atomic_load(&team->sleeping)) {
        lock_take(&team->sleep);
        signal_all(&team->wake);
        lock_leave(&team->sleep);
    }
}

void team_stop(Team *team) {
    team->stopping = 1;
    start_job(team);
    for (int i = 1; i < team->size; i++) thread_join(team->threads[i]);
}

size_t team_bytes(void) { return (sizeof(Team) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

int team_size(const Team *team) { return team->size; }

Team *team_start(void *memory, int size) {
    Team *team = memory;
    memset(team, 0, sizeof *team);
    team->alone_for = LEAST_ALONE;
    lock_start(&team->sleep);
    signal_start(&team->wake);
    for (team->size = 1; team->size < size; team->size++) {
        Member *member = &team->members[team->size];
        *member = (Member){team, team->size};
        if (!thread_start(&team->threads[team->size], work, member)) break;
    }
    return team;
}

void team_run(Team *team, Function function, Run *run) {
    run->team = team;
    run->threads = team->alone_until > nanoseconds() ? 1 : team->size;
    team->run = run;
    team->function = function;
    if (run->threads == 1) {
        function(run, 0);
        return;
    }
    start_job(team);
    take_part(team, 0);
    look_back(team);
}
