/* Opens a model from a file by a memory map, or from memory with a workspace that it takes, and closes it. */
#include <errno.h>

#include "model.h"
#include "system.h"

int minitx_open_memory(minitx_model **model, const void *weights, size_t bytes, const minitx_limits *limits) {
    minitx_model examined = {0};
    *model = NULL;
    const int failed = minitx_examine(&examined, weights, bytes, limits);
    if (failed) return failed;
    const size_t needed = minitx_arrange(&examined, NULL);
    void *workspace = needed ? system_take(needed) : NULL;
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

int minitx_open(minitx_model **model, const char *path, const minitx_limits *limits) {
    size_t bytes = 0;
    const void *map = system_map(path, &bytes);
    *model = NULL;
    if (!map) return errno ? MINITX_NO_FILE : MINITX_NOT_WEIGHTS;
    const int failed = minitx_open_memory(model, map, bytes, limits);
    if (failed) {
        system_unmap(map, bytes);
        return failed;
    }
    (*model)->map = map;
    (*model)->map_bytes = bytes;
    return MINITX_OK;
}

void minitx_close(minitx_model *model) {
    if (!model) return;
    team_stop(model->team);
    if (model->map) system_unmap(model->map, model->map_bytes);
    system_give(model->memory);
}
