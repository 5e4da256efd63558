/* Adds up what conv2d_dense_tile left in parts, in their order.

   JOINED = 1, in a walk: another layer's output is added on the way.

   Reads      bias (k,);  sums (parts, k, n*p*q)
   Writes     y nchw
   Work-item  one number of y
   Cost       bandwidth */
#include "rs_copy.cl"

RS_KERNEL conv2d_dense_sum(__global const float *x, __global float *y, __global const float *bias,
                           __global const void *w, __global const float *sums JOINED_WITH, const rs_args a RS_PLACE) {
    const int pixels = a.p * a.q, all = a.n * pixels, size = a.k * all;
    RS_EACH(i, size) {
        const int k = i / all, j = i % all;
        float sum = bias[k];
        int part = 0;
        for (; part + 4 <= a.parts; part += 4) { /* four loads under way at once */
            float next[4];
            #pragma unroll
            for (int e = 0; e < 4; e++) next[e] = sums[(size_t)(part + e) * size + i];
            #pragma unroll
            for (int e = 0; e < 4; e++) sum += next[e];
        }
        for (; part < a.parts; part++) sum += sums[(size_t)part * size + i];
        const size_t place = ((size_t)(j / pixels) * a.k + k) * pixels + j % pixels;
        sum = rs_activate(sum, a.activation);
#if JOINED
        sum = rs_activate(sum + other[place], a.joined);
#endif
        y[place] = sum;
    }
}
