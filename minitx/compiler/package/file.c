/* Opens a model from a file by a memory map, or from memory with a workspace that it takes, and closes it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model.h"

int minitx_open_memory(minitx_model **model, const void *weights, size_t bytes, const minitx_limits *limits) {
    minitx_model examined = {0};
    *model = NULL;
    const int failed = minitx_examine(&examined, weights, bytes, limits);
    if (failed) return failed;
    const size_t needed = minitx_arrange(&examined, NULL);
    void *workspace = needed ? aligned_alloc(64, needed) : NULL;
    if (!workspace) return MINITX_NO_MEMORY;
    minitx_arrange(&examined, workspace);
    *model = minitx_start(&examined, workspace);
    (*model)->memory = workspace;
    return MINITX_OK;
}

int minitx_open_embedded(minitx_model **model, const minitx_limits *limits) {
    size_t bytes;
    const void *weights = minitx_embedded(&bytes);
    *model = NULL;
    return weights ? minitx_open_memory(model, weights, bytes, limits) : MINITX_NOT_LINKED;
}

/* A file as memory; NULL where it cannot be had. */
static void *map_file(const char *path, size_t *bytes) {
    struct stat status;
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return NULL;
    void *map = MAP_FAILED;
    if (!fstat(file, &status)) {
        *bytes = (size_t)status.st_size;
        if (!S_ISREG(status.st_mode)) errno = EINVAL;
        else map = mmap(NULL, *bytes ? *bytes : 1, PROT_READ, MAP_PRIVATE, file, 0);
    }
    const int error = errno;
    close(file);
    errno = error;
    return map == MAP_FAILED ? NULL : map;
}

int minitx_open(minitx_model **model, const char *path, const minitx_limits *limits) {
    size_t bytes = 0;
    void *map = map_file(path, &bytes);
    *model = NULL;
    if (!map) return MINITX_NO_FILE;
    const int failed = minitx_open_memory(model, map, bytes, limits);
    if (failed) {
        munmap(map, bytes ? bytes : 1);
        return failed;
    }
    (*model)->map = map;
    (*model)->map_bytes = bytes;
    return MINITX_OK;
}

void minitx_close(minitx_model *model) {
    if (!model) return;
    team_stop(model->team);
    if (model->map) munmap(model->map, model->map_bytes);
    free(model->memory);
}
