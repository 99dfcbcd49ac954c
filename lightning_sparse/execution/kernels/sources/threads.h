/* Parallel loops on a pool of threads of our own: PyTorch's OpenMP may be any of several, and two don't mix.
 *
 * Jobs are independent, and what each computes doesn't depend on the thread that it runs on: results are the same with
 * any number of threads.
 */
#ifndef LIGHTNING_SPARSE_THREADS_H
#define LIGHTNING_SPARSE_THREADS_H

typedef void (*job_function)(long job, const void *context);

/* Call run(job, context) for each job from 0 to jobs - 1, on up to `threads` threads, and return when all are done.
 *
 * Jobs run one after the other in the calling thread if threads or jobs is 1, if another thread is in a loop, or if no
 * thread can be started. A process that was forked starts threads of its own.
 */
void run_jobs(long jobs, long threads, job_function run, const void *context);

#endif
