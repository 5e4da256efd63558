/* Depthwise layers on GPUs: one filter a channel, any stride, padding and dilation.

   Reads      x nchw;  bias (c,);  w (c, r, s)
   Writes     y nchw
   Work-item  one number of y
   HALF = 1   w in float16, arithmetic in float32
   Cost       bandwidth: r*s multiply-adds for each number, whose inputs neighbours share in the first cache */
#include "rs_stored.cl"

RS_KERNEL conv2d_dense_depthwise_gpu(__global const float *x, __global float *y, __global const float *bias,
                                     __global const WEIGHT *w, const rs_args a RS_PLACE) {
    RS_EACH(i, a.n * a.k * a.p * a.q) {
        const int q = i % a.q, p = i / a.q % a.p, plane = i / (a.q * a.p), c = plane % a.c;
        const int h = p * a.st0 - a.pd0, v = q * a.st1 - a.pd1, corner = (plane * a.h + h) * a.w + v;
        float sum = bias[c];
        if (a.r == 3 && a.s == 3 && a.dl0 == 1 && a.dl1 == 1) { /* nine loads under way at once */
            float x9[9];
            #pragma unroll
            for (int t = 0; t < 9; t++) {
                const int inside = h + t / 3 >= 0 && h + t / 3 < a.h && v + t % 3 >= 0 && v + t % 3 < a.w;
                x9[t] = inside ? x[corner + t / 3 * a.w + t % 3] : 0;
            }
            #pragma unroll
            for (int t = 0; t < 9; t++) sum = fma(x9[t], LOAD(w, c * 9 + t), sum);
        } else
            for (int r = 0; r < a.r; r++)
                for (int s = 0; s < a.s; s++) {
                    const int y0 = h + r * a.dl0, x0 = v + s * a.dl1;
                    if (y0 >= 0 && y0 < a.h && x0 >= 0 && x0 < a.w)
                        sum = fma(x[corner + r * a.dl0 * a.w + s * a.dl1], LOAD(w, (c * a.r + r) * a.s + s), sum);
                }
        y[i] = rs_activate(sum, a.activation);
    }
}
