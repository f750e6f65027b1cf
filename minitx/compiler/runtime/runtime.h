/* What the generated code of a plan and the runtime know of each other. */
#ifndef MINITX_RUNTIME_H
#define MINITX_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/search.h"

typedef struct Team Team;

/* One run of one function of the plan, the same for all threads of the team. */
typedef struct {
    const uint8_t *weights;
    uint8_t *arena;          /* rows * the function's arena bytes */
    uint8_t *scratch;        /* scratch_stride bytes for each thread */
    size_t scratch_stride;
    void *const *buffers;    /* the caller's: inputs, outputs and state, in the plan's order */
    const int32_t *sizes;    /* ROWS, POSITION, ... of kernels.h */
    int threads;
    Team *team;
    int64_t *times;          /* NULL, or nanoseconds by call, to be added to */
} Run;

typedef void (*Function)(const Run *run, int thread);

/* A team of so many threads, or of fewer if the system gives no more, in `memory` of `team_bytes`, aligned for 64. The
 * caller is one of them. */
size_t team_bytes(void);
Team *team_start(void *memory, int size);
int team_size(const Team *team);
void team_stop(Team *team);

/* Runs a function on the team; sets `team` and `threads` of the run. */
void team_run(Team *team, Function function, Run *run);

/* Waits until every thread of the team is here; what they wrote before is seen by all of them after. */
void team_wait(Team *team);

int64_t nanoseconds(void); /* of a clock that only goes forward */

/* Does something, and adds the time that the first thread took for it; where nobody asks for times, without the code. */
#ifdef UNTIMED
#define TIMED(times, call, statement) statement
#else
#define TIMED(times, call, statement)                                                                                 \
    do {                                                                                                              \
        const int64_t began = (times) && thread == 0 ? nanoseconds() : 0;                                             \
        statement;                                                                                                    \
        if (began) (times)[call] += nanoseconds() - began;                                                            \
    } while (0)
#endif

/* The functions of a plan as compiled for one instruction set. */
typedef struct {
    const char *name;
    int (*supported)(void);       /* by the processor that this runs on */
    const Function *functions;
    size_t (*scratch)(int keys);  /* bytes that a thread needs to attend to so many keys */
} Set;

extern const Set minitx_sets[];   /* best first; ends with a set without a name */
extern const size_t minitx_arena[]; /* bytes for each row, by function */
extern const Layout minitx_layout;  /* of the function STEP */

#endif
