#include "threads.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>

enum { MOST_WORKERS = 255 };

/* Held by the thread whose loop the workers are in. */
static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t begun, done;
    long workers;    /* threads that were started */
    long wanted;     /* those that take part in the present loop: the first ones */
    long running;    /* those of them that haven't ended it */
    long generation; /* number of loops so far, by which workers tell a new one */
    long jobs;
    job_function run;
    const void *context;
    atomic_long next; /* the next job */
} pool = {.mutex = PTHREAD_MUTEX_INITIALIZER, .begun = PTHREAD_COND_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};

static void take_jobs(void) {
    for (long job; (job = atomic_fetch_add(&pool.next, 1)) < pool.jobs;) pool.run(job, pool.context);
}

static void *work(void *number) {
    long seen = 0;
    pthread_mutex_lock(&pool.mutex);
    for (;;) {
        while (pool.generation == seen) pthread_cond_wait(&pool.begun, &pool.mutex);
        seen = pool.generation;
        if ((intptr_t)number >= pool.wanted) continue;
        pthread_mutex_unlock(&pool.mutex);
        take_jobs();
        pthread_mutex_lock(&pool.mutex);
        if (--pool.running == 0) pthread_cond_signal(&pool.done);
    }
    return NULL;
}

/* A forked process has no threads but the one that forked, and locks as they happened to be. */
static void after_fork(void) {
    pthread_mutex_init(&busy, NULL);
    pthread_mutex_init(&pool.mutex, NULL);
    pthread_cond_init(&pool.begun, NULL);
    pthread_cond_init(&pool.done, NULL);
    pool.workers = pool.generation = 0;
}

static void register_fork(void) { pthread_atfork(NULL, NULL, after_fork); }

/* Start threads until there are `count`, or no more can be started. They get no signals: those are the program's. */
static void start_workers(long count) {
    sigset_t everything, before;
    sigfillset(&everything);
    pthread_sigmask(SIG_SETMASK, &everything, &before);
    while (pool.workers < count && pool.workers < MOST_WORKERS) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(intptr_t)pool.workers) != 0) break;
        pthread_detach(thread);
        pool.workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void run_jobs(long jobs, long threads, job_function run, const void *context) {
    pthread_once(&once, register_fork);
    if (jobs <= 1 || threads <= 1 || pthread_mutex_trylock(&busy) != 0) {
        for (long job = 0; job < jobs; job++) run(job, context);
        return;
    }
    pthread_mutex_lock(&pool.mutex);
    long others = (threads < jobs ? threads : jobs) - 1;
    start_workers(others);
    pool.wanted = pool.running = others < pool.workers ? others : pool.workers;
    pool.jobs = jobs, pool.run = run, pool.context = context;
    atomic_store(&pool.next, 0);
    pool.generation++;
    pthread_cond_broadcast(&pool.begun);
    pthread_mutex_unlock(&pool.mutex);
    take_jobs();
    pthread_mutex_lock(&pool.mutex);
    while (pool.running > 0) pthread_cond_wait(&pool.done, &pool.mutex);
    pthread_mutex_unlock(&pool.mutex);
    pthread_mutex_unlock(&busy);
}

#ifndef SOURCES
#define SOURCES ""
#endif

/* The sources that the library was made from, for build.py. */
const char kernels_digest[] = SOURCES;
