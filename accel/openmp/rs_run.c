/* A whole network is one call and one parallel region.

       for step in steps: step.fn(step.args)

   Every thread walks the table; inside a kernel `#pragma omp for` (orphaned: it binds to the region opened here)
   deals the work out, and its implied barrier is what orders one step after another. Opening a region once instead of
   once a layer saves a fork and join for each of MobileNet's 28 layers of some 20 us.
   A kernel run outside any region runs alone: the same `omp for` then deals everything to one thread. */
#define _GNU_SOURCE
#include "rs.h"

#if defined(__linux__) && defined(_OPENMP)
#include <omp.h>
#include <sched.h>

/* The processors this process may use, if there are just as many as threads. A thread that was woken from sleep often
   starts on the processor of the one that woke it, and shares it for several networks' time while another stands idle.
   So each thread keeps to one of its own during the call. With processors to spare the kernel knows better: which are
   idle, and which are two halves of one core. */
typedef struct {
    cpu_set_t may;
    int bound, first; /* whether there are just as many; the processor that the first thread is on */
} rs_seats;

static rs_seats seats_of(int64_t threads) {
    rs_seats seats = {.bound = 0, .first = sched_getcpu()};
    if (threads > 1 && sched_getaffinity(0, sizeof seats.may, &seats.may) == 0)
        seats.bound = CPU_COUNT(&seats.may) == threads && seats.first >= 0;
    return seats;
}

/* Thread i takes the i-th processor after the first thread's, all around. */
static void sit(const rs_seats *seats) {
    if (!seats->bound) return;
    int cpu = seats->first;
    for (int i = omp_get_thread_num(); i > 0; i--)
        do cpu = (cpu + 1) % CPU_SETSIZE;
        while (!CPU_ISSET(cpu, &seats->may));
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
}

static void stand(const rs_seats *seats) {
    if (seats->bound) sched_setaffinity(0, sizeof seats->may, &seats->may);
}
#else
typedef int rs_seats;
static rs_seats seats_of(int64_t threads) { return (int)threads; }
static void sit(const rs_seats *seats) { (void)seats; }
static void stand(const rs_seats *seats) { (void)seats; }
#endif

void rs_run(const rs_step *steps, int64_t count, int64_t threads) {
    const rs_seats seats = seats_of(threads);
#pragma omp parallel num_threads((int)threads)
    {
        sit(&seats);
        for (int64_t i = 0; i < count; i++) steps[i].fn(steps[i].args);
        stand(&seats);
    }
}

/* Channels in a block of the nchw<V>c layouts of this build. */
int64_t rs_vector_width(void) { return RS_V; }

/* The table's fields are bytes to Python: both sides must agree on their number. */
int64_t rs_args_bytes(void) { return sizeof(rs_args); }
