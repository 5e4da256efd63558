/* The plain integer loop: any stride, padding, dilation and number of groups.

       acc[n,k,p,q] = start[k] + sum over c,r,s of  (x[n, c, p*st + r*dl - top, q*st + s*dl - left] - zero) * w[k,c,r,s]

   and y as rs_int8.cl finishes it; a tap that falls outside the image contributes nothing.

   Reads      x int8 nchw;  w int8 (k, c/g, r, s);  sizes int64 {1, zero};  start (k,), requant (5, k), unit (k,)
   Writes     y int8 or float32 nchw
   Work-item  one number of y
   Cost       n*k*p*q * (c/g)*r*s multiply-adds, two loads each: bound by loads; bitwise */
#include "rs_int8.cl"

RS_KERNEL conv2d_int8_direct(__global const char *x, __global void *y, __global const char *w,
                             __global const long *sizes, __global const int *start, __global const int *requant,
                             __global const float *unit, const rs_args a RS_PLACE) {
    const int zero = (int)sizes[1];
    RS_EACH(i, a.n * a.k * a.p * a.q) {
        const int q = i % a.q, p = i / a.q % a.p, k = i / (a.q * a.p) % a.k, n = i / (a.q * a.p * a.k);
        const int cg = a.c / a.g, first = n * a.c + k / (a.k / a.g) * cg;
        int acc = start[k];
        for (int r = 0; r < a.r; r++) {
            const int h = rs_tap(p, r, a.st0, a.dl0, a.pd0, a.h);
            if (h < 0) continue;
            for (int s = 0; s < a.s; s++) {
                const int v = rs_tap(q, s, a.st1, a.dl1, a.pd1, a.w);
                if (v < 0) continue;
                for (int c = 0; c < cg; c++)
                    acc += (x[((first + c) * a.h + h) * a.w + v] - zero) * w[((k * cg + c) * a.r + r) * a.s + s];
            }
        }
        rs_finish(y, i, acc, requant, unit, k, a.k, a);
    }
}
