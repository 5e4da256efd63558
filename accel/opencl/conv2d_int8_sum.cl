/* Adds up what conv2d_int8_tile left in parts, and finishes it.

   Reads      sums int32 (parts, k, n*p*q);  start, requant, unit
   Writes     y int8 or float32 nchw
   Work-item  one number of y
   Cost       bandwidth */
#include "rs_int8.cl"

RS_KERNEL conv2d_int8_sum(__global const void *x, __global void *y, __global const void *w, __global const int *zero,
                          __global const int *start, __global const int *requant, __global const float *unit,
                          __global const int *sums, const rs_args a RS_PLACE) {
    const int pixels = a.p * a.q, all = a.n * pixels, size = a.k * all;
    RS_EACH(i, size) {
        const int k = i / all, j = i % all;
        int acc = start[k];
        for (int part = 0; part < a.parts; part += 16) {
            #pragma unroll
            for (int e = 0; e < 16; e++) acc += part + e < a.parts ? sums[(size_t)(part + e) * size + i] : 0;
        }
        rs_finish(y, (j / pixels * a.k + k) * pixels + j % pixels, acc, requant, unit, k, a.k, a);
    }
}
