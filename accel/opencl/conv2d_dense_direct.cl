/* The plain loop: any stride, padding, dilation and number of groups.

       y[n,k,p,q] = activation(bias[k] + sum over c,r,s of  x[n, c, p*st + r*dl - top, q*st + s*dl - left] * w[k,c,r,s])

   HALF = 1: w in float16, arithmetic in float32.

   Reads      x nchw;  bias (k,);  w (k, c/g, r, s)
   Writes     y nchw
   Work-item  one number of y
   Cost       n*k*p*q * (c/g)*r*s multiply-adds, two loads each: bound by loads */
#include "rs_stored.cl"

RS_KERNEL conv2d_dense_direct(__global const float *x, __global float *y, __global const float *bias,
                              __global const WEIGHT *w, const rs_args a RS_PLACE) {
    RS_EACH(i, a.n * a.k * a.p * a.q) {
        const int q = i % a.q, p = i / a.q % a.p, k = i / (a.q * a.p) % a.k, n = i / (a.q * a.p * a.k);
        const int cg = a.c / a.g, group = k / (a.k / a.g);
        float sum = bias[k];
        for (int r = 0; r < a.r; r++) {
            const int h = rs_tap(p, r, a.st0, a.dl0, a.pd0, a.h);
            if (h < 0) continue;
            for (int s = 0; s < a.s; s++) {
                const int v = rs_tap(q, s, a.st1, a.dl1, a.pd1, a.w);
                if (v < 0) continue;
                for (int c = 0; c < cg; c++)
                    sum = fma(x[((n * a.c + group * cg + c) * a.h + h) * a.w + v],
                              LOAD(w, ((k * cg + c) * a.r + r) * a.s + s), sum);
            }
        }
        y[i] = rs_activate(sum, a.activation);
    }
}
