/* What the library needs of an operating system, threads apart. */
#ifndef MINITX_SYSTEM_H
#define MINITX_SYSTEM_H

#include <stddef.h>

/* A file as memory that is only read, and its size; NULL where it cannot be had: errno says why, and is 0 where the file
 * is empty. Paths are UTF-8 on Windows, and as the system has them elsewhere. */
const void *system_map(const char *path, size_t *bytes);
void system_unmap(const void *map, size_t bytes);

/* Memory at a multiple of 64; NULL where there is not so much. `bytes` is such a multiple. */
void *system_take(size_t bytes);
void system_give(void *memory);

#endif
