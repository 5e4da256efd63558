/* What this machine can do at best: the two roofs under which every timing must stay.

       rs_fma_flops     threads * RS_CHAINS * lanes * 2 * iterations    fused multiply-adds on registers alone
       rs_read_bytes    sum over 64-bit words of a buffer                every byte read once a pass

   Both return a number that depends on all the work, so that a compiler cannot leave it out; Python takes the time.
   Threads   each works for itself on chains of its own, or on its own part of the buffer
   Source    Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009 */
#include <stddef.h>
#include <stdint.h>

#if defined(__AVX512F__)
#define RS_BYTES 64
#elif defined(__AVX__)
#define RS_BYTES 32
#else
#define RS_BYTES 16
#endif

/* Independent chains: latency (4 to 5 cycles) times units (2), within the 16 registers of AVX2. */
#define RS_CHAINS 12

typedef float rs_floats __attribute__((vector_size(RS_BYTES)));
typedef int64_t rs_words __attribute__((vector_size(RS_BYTES)));

/* Multiply-adds of one iteration of one thread. */
int64_t rs_fma_width(void) { return RS_CHAINS * (RS_BYTES / 4); }

/* x = x * 1 + tiny, `iterations` times on RS_CHAINS vectors in each thread. */
double rs_fma_run(int64_t threads, int64_t iterations, float factor, float step) {
    double total = 0;
#pragma omp parallel num_threads((int)threads) reduction(+ : total)
    {
        rs_floats a = factor - (rs_floats){0}, b = step - (rs_floats){0}, x[RS_CHAINS];
        for (int i = 0; i < RS_CHAINS; i++) x[i] = (float)i - (rs_floats){0};
        for (int64_t n = 0; n < iterations; n++) {
#pragma GCC unroll 16
            for (int i = 0; i < RS_CHAINS; i++) x[i] = x[i] * a + b;
        }
        for (int i = 0; i < RS_CHAINS; i++)
            for (int lane = 0; lane < RS_BYTES / 4; lane++) total += x[i][lane];
    }
    return total;
}

/* Sum of `bytes` (a multiple of 4096) of an aligned buffer, `passes` times. */
int64_t rs_read_run(int64_t threads, const void *buffer, int64_t bytes, int64_t passes) {
    const rs_words *words = buffer;
    const int64_t pages = bytes / 4096, vectors = 4096 / RS_BYTES;
    int64_t total = 0;
#pragma omp parallel num_threads((int)threads) reduction(+ : total)
    {
        rs_words sum[4] = {{0}};
        for (int64_t pass = 0; pass < passes; pass++) {
#pragma omp for schedule(static)
            for (int64_t page = 0; page < pages; page++)
                for (int64_t i = 0; i < vectors; i += 4)
                    for (int k = 0; k < 4; k++) sum[k] += words[page * vectors + i + k];
        }
        for (int k = 0; k < 4; k++)
            for (int lane = 0; lane < RS_BYTES / 8; lane++) total += sum[k][lane];
    }
    return total;
}
