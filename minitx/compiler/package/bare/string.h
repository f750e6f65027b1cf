/* What the library needs of <string.h>, for machines without a C library. Only memcpy and memset have to be linked. */
#ifndef MINITX_BARE_STRING_H
#define MINITX_BARE_STRING_H

#include <stddef.h>

void *memcpy(void *to, const void *from, size_t bytes);
void *memset(void *to, int byte, size_t bytes);

/* -ffreestanding takes these for any functions; the compiler's own are instructions where the size is constant. */
#define memcpy __builtin_memcpy
#define memset __builtin_memset
#define memmove minitx_bare_move
#define memcmp minitx_bare_compare
#define memchr minitx_bare_find

/* The barriers keep compilers from making a call of it. */
static inline void *minitx_bare_move(void *to, const void *from, size_t bytes) {
    unsigned char *out = (unsigned char *)to;
    const unsigned char *in = (const unsigned char *)from;
    for (size_t i = 0; i < bytes; i++) {
        const size_t at = out < in ? i : bytes - 1 - i;
        out[at] = in[at];
        __asm__ volatile("" ::: "memory");
    }
    return to;
}

static inline int minitx_bare_compare(const void *a, const void *b, size_t bytes) {
    const unsigned char *first = (const unsigned char *)a, *second = (const unsigned char *)b;
    for (size_t i = 0; i < bytes; i++)
        if (first[i] != second[i]) return first[i] < second[i] ? -1 : 1;
    return 0;
}

static inline void *minitx_bare_find(const void *memory, int byte, size_t bytes) {
    const unsigned char *at = (const unsigned char *)memory;
    for (size_t i = 0; i < bytes; i++)
        if (at[i] == (unsigned char)byte) return (void *)(at + i);
    return NULL;
}

#endif
