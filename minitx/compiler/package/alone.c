/* A team of one, for packages without threads: what runtime/team.c is for the others. */
#include "kernels/sizes.h"
#include "runtime/runtime.h"

size_t team_bytes(void) { return 0; }

Team *team_start(void *memory, int size) {
    (void)size;
    return (Team *)memory;
}

int team_size(const Team *team) {
    (void)team;
    return 1;
}

void team_stop(Team *team) { (void)team; }

void team_run(Team *team, Function function, Run *run) {
    run->team = team;
    run->threads = 1;
    function(run, 0);
}

void team_wait(Team *team) { (void)team; }

int64_t nanoseconds(void) { return 0; } /* nobody measures a package's calls */
