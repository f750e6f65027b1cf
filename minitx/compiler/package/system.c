/* Files as memory, and memory, from the operating system: on Windows from its own calls, elsewhere from POSIX. */
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <io.h>
#include <malloc.h>
#include <windows.h>

enum { LONGEST_PATH = 4096 };

static const void *map_open(int file, size_t *bytes) {
    const int64_t size = _filelengthi64(file);
    void *map = NULL;
    errno = size == 0 ? 0 : EFBIG;
    if (size <= 0 || (uint64_t)size > SIZE_MAX) return NULL;
    *bytes = (size_t)size;
    errno = ENOMEM;
    HANDLE mapping = CreateFileMappingW((HANDLE)_get_osfhandle(file), NULL, PAGE_READONLY, 0, 0, NULL);
    if (mapping) {
        map = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, *bytes);
        CloseHandle(mapping);
    }
    return map;
}

#define close _close
static int open_path(const char *path) {
    wchar_t wide[LONGEST_PATH];
    errno = EINVAL;
    if (!MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, LONGEST_PATH)) return -1;
    return _wopen(wide, _O_RDONLY | _O_BINARY | _O_NOINHERIT);
}

void system_unmap(const void *map, size_t bytes) {
    (void)bytes;
    UnmapViewOfFile(map);
}

void *system_take(size_t bytes) { return _aligned_malloc(bytes, 64); }
void system_give(void *memory) { _aligned_free(memory); }

#else
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const void *map_open(int file, size_t *bytes) {
    struct stat status;
    if (fstat(file, &status)) return NULL;
    errno = !S_ISREG(status.st_mode) ? EINVAL : status.st_size ? EFBIG : 0;
    if (errno != EFBIG || (uintmax_t)status.st_size > SIZE_MAX / 2) return NULL;
    *bytes = (size_t)status.st_size;
    void *map = mmap(NULL, *bytes, PROT_READ, MAP_PRIVATE, file, 0);
    return map == MAP_FAILED ? NULL : map;
}

static int open_path(const char *path) { return open(path, O_RDONLY | O_CLOEXEC); }

void system_unmap(const void *map, size_t bytes) { munmap((void *)(uintptr_t)map, bytes); }

void *system_take(size_t bytes) { return aligned_alloc(64, bytes); }
void system_give(void *memory) { free(memory); }
#endif

const void *system_map(const char *path, size_t *bytes) {
    const int file = open_path(path);
    if (file < 0) return NULL;
    const void *map = map_open(file, bytes);
    const int error = errno;
    close(file);
    errno = error;
    return map;
}
