/* A whole network is one call and one parallel region.

       for step in steps: step.fn(step.args)

   Every thread walks the table; inside a kernel `#pragma omp for` (orphaned: it binds to the region opened here)
   deals the work out, and its implied barrier is what orders one step after another. Opening a region once instead of
   once a layer saves a fork and join for each of MobileNet's 28 layers of some 20 us.
   A kernel run outside any region runs alone: the same `omp for` then deals everything to one thread. */
#include "rs.h"

void rs_run(const rs_step *steps, int64_t count, int64_t threads) {
#pragma omp parallel num_threads((int)threads)
    for (int64_t i = 0; i < count; i++) steps[i].fn(steps[i].args);
}

/* Channels in a block of the nchw<V>c layouts of this build. */
int64_t rs_vector_width(void) { return RS_V; }

/* The table's fields are bytes to Python: both sides must agree on their number. */
int64_t rs_args_bytes(void) { return sizeof(rs_args); }
