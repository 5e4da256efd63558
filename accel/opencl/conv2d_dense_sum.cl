/* Adds up what conv2d_dense_tile left in parts, in their order.

   JOINED = 1, in a walk: another layer's output is added on the way.

   Reads      bias (k,);  sums (parts, k, n*p*q)
   Writes     y nchw
   Work-item  one number of y
   Cost       bandwidth */
#include "rs_copy.cl"
#undef TABLE
#if TERNARY /* the tile's arguments, of which this one needs fewer */
#define TABLE , __global const float *table
#else
#define TABLE
#endif

RS_KERNEL conv2d_dense_sum(__global const float *x, __global float *y, __global const float *bias,
                           __global const void *w TABLE, __global const float *sums JOINED_WITH,
                           const rs_args a RS_PLACE) {
    const int pixels = a.p * a.q, all = a.n * pixels, size = a.k * all;
    RS_EACH(i, size) {
        const int k = i / all, j = i % all;
        float sum = bias[k];
        for (int part = 0; part < a.parts; part += 16) { /* so many loads under way at once */
            float next[16];
            #pragma unroll
            for (int e = 0; e < 16; e++) next[e] = part + e < a.parts ? sums[(size_t)(part + e) * size + i] : 0;
            #pragma unroll
            for (int e = 0; e < 16; e++) sum += next[e];
        }
        const size_t place = ((size_t)(j / pixels) * a.k + k) * pixels + j % pixels;
        sum = rs_activate(sum, a.activation);
#if JOINED
        sum = rs_activate(sum + other[place], a.joined);
#endif
        y[place] = sum;
    }
}
