/* What every kernel is told at run time, and how the work is shared. */
#ifndef MINITX_SIZES_H
#define MINITX_SIZES_H

#include <stddef.h>
#include <stdint.h>

/* Indices of the array `sizes`. */
enum {
    ROWS,      /* rows that the call works on */
    POSITION,  /* of the token that is decoded */
    SENTENCES, /* source sentences */
    TOP,       /* candidates that are wanted, at most TOP_MAX and the vocabulary */
    CAPACITY,  /* rows of the key and value cache */
    LONGEST,   /* source sentence, in tokens */
    CHOSEN,    /* columns of the output that a shortlist allows any of the sentences; 0: there are all of them */
    MASKED     /* whether some sentence does not allow all of these */
};
enum { MAX_THREADS = 64, TOP_MAX = 80 };

/* From where to where the thread's share of `count` goes: begin is share(count, thread, threads), end that of thread + 1. */
static inline int share(int count, int thread, int threads) { return (int)((int64_t)count * thread / threads); }

static inline int rounded(int size, int multiple) { return (size + multiple - 1) / multiple * multiple; }

#endif
