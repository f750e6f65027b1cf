/* Threads and clocks where they differ by system: Windows' own, else those of POSIX. clock_now gives the nanoseconds of a
 * clock that only goes forward, clock_of_thread those for which this thread had a core. */
#ifndef MINITX_THREADS_H
#define MINITX_THREADS_H

#include <stdint.h>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

typedef HANDLE Thread;
typedef SRWLOCK Lock;
typedef CONDITION_VARIABLE Signal;
#define THREAD_FUNCTION(name, argument) static DWORD WINAPI name(void *argument)
enum { THREAD_ENDS = 0 };

static inline int thread_start(Thread *thread, LPTHREAD_START_ROUTINE function, void *argument) {
    *thread = CreateThread(NULL, 0, function, argument, 0, NULL);
    return *thread != NULL;
}

static inline void thread_join(Thread thread) {
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}

static inline void thread_yield(void) { SwitchToThread(); }
static inline void lock_start(Lock *lock) { InitializeSRWLock(lock); }
static inline void lock_take(Lock *lock) { AcquireSRWLockExclusive(lock); }
static inline void lock_leave(Lock *lock) { ReleaseSRWLockExclusive(lock); }
static inline void signal_start(Signal *signal) { InitializeConditionVariable(signal); }
static inline void signal_all(Signal *signal) { WakeAllConditionVariable(signal); }
static inline void signal_wait(Signal *signal, Lock *lock) { SleepConditionVariableSRW(signal, lock, INFINITE, 0); }

static inline int64_t clock_now(void) {
    LARGE_INTEGER ticks, second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&second);
    const int64_t whole = ticks.QuadPart / second.QuadPart, rest = ticks.QuadPart % second.QuadPart;
    return whole * 1000000000 + rest * 1000000000 / second.QuadPart;
}

/* Windows tells what a thread used only in ticks of 15 ms: here each counts as if it always had its core. */
static inline int64_t clock_of_thread(void) { return clock_now(); }

#else
#include <pthread.h>
#include <sched.h>
#include <time.h>

typedef pthread_t Thread;
typedef pthread_mutex_t Lock;
typedef pthread_cond_t Signal;
#define THREAD_FUNCTION(name, argument) static void *name(void *argument)
#define THREAD_ENDS NULL

static inline int thread_start(Thread *thread, void *(*function)(void *), void *argument) {
    return !pthread_create(thread, NULL, function, argument);
}

static inline void thread_join(Thread thread) { pthread_join(thread, NULL); }
static inline void thread_yield(void) { sched_yield(); }
static inline void lock_start(Lock *lock) { pthread_mutex_init(lock, NULL); }
static inline void lock_take(Lock *lock) { pthread_mutex_lock(lock); }
static inline void lock_leave(Lock *lock) { pthread_mutex_unlock(lock); }
static inline void signal_start(Signal *signal) { pthread_cond_init(signal, NULL); }
static inline void signal_all(Signal *signal) { pthread_cond_broadcast(signal); }
static inline void signal_wait(Signal *signal, Lock *lock) { pthread_cond_wait(signal, lock); }

static inline int64_t clock_read(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline int64_t clock_now(void) { return clock_read(CLOCK_MONOTONIC); }
static inline int64_t clock_of_thread(void) { return clock_read(CLOCK_THREAD_CPUTIME_ID); }
#endif

#endif
