/* What stands before and behind a library's matrix product.

       im2col             columns[n, (c,r,s), (p,q)] = x[n, c, p*st + r*dl - top, q*st + s*dl - left], zeros outside
       bias_activation    y[n,k,p,q] = activation(y[n,k,p,q] + bias[k])

   Reads      x nchw;  bias (k,);  w is the library's
   Writes     columns, then y in place
   Work-item  RUNS = 1, processors: a plane of p*q numbers;  RUNS = 0, GPUs: one number
   Cost       bandwidth: r*s as many numbers as x has, written here and read by the product */
#if RUNS
#define OF(count) 1
#define EACH(j, part, count) for (int j = 0; j < (count); j++)

/* Eight numbers that need not be aligned: compilers copy them by vectors. */
typedef struct __attribute__((packed, aligned(4))) {
    float8 v;
} rs_eight;

/* A row of columns, of tap s: zeros, numbers, zeros. */
inline void rs_row(__global float *to, __global const float *from, const int s, const rs_args *a) {
    const int shift = s * a->dl1 - a->pd1;
    const int first = min(a->q, max(0, (a->st1 - 1 - shift) / a->st1));
    const int end = max(first, min(a->q, (a->w - 1 - shift + a->st1) / a->st1));
    int q = 0;
    for (; q < first; q++) to[q] = 0;
    if (a->st1 == 1)
        for (; q + 8 <= end; q += 8)
            ((__global rs_eight *)(to + q))->v = ((__global const rs_eight *)(from + q + shift))->v;
    for (; q < end; q++) to[q] = from[q * a->st1 + shift];
    for (; q < a->q; q++) to[q] = 0;
}
#else
#define OF(count) (count)
#define EACH(j, part, count) const int j = part;
#endif

RS_KERNEL im2col(__global const float *x, __global float *y, __global const float *bias, __global const float *w,
                 __global float *columns, const rs_args a RS_PLACE) {
    const int pixels = a.p * a.q;
    RS_EACH(i, a.n * a.c * a.r * a.s * OF(pixels)) {
        const int plane = i / OF(pixels), s = plane % a.s, r = plane / a.s % a.r, c = plane / (a.s * a.r);
        __global const float *from = x + c * a.h * a.w;
        __global float *to = columns + plane * pixels;
#if RUNS
        for (int p = 0; p < a.p; p++) {
            const int h = rs_tap(p, r, a.st0, a.dl0, a.pd0, a.h);
            if (h < 0)
                for (int q = 0; q < a.q; q++) to[p * a.q + q] = 0;
            else
                rs_row(to + p * a.q, from + h * a.w, s, &a);
        }
#else
        const int p = i % pixels / a.q, q = i % a.q;
        const int h = rs_tap(p, r, a.st0, a.dl0, a.pd0, a.h), v = rs_tap(q, s, a.st1, a.dl1, a.pd1, a.w);
        to[i % pixels] = h < 0 || v < 0 ? 0 : from[h * a.w + v];
#endif
    }
}

RS_KERNEL bias_activation(__global const float *x, __global float *y, __global const float *bias,
                          __global const float *w, __global const float *columns, const rs_args a RS_PLACE) {
    const int pixels = a.p * a.q;
    RS_EACH(i, a.n * a.k * OF(pixels)) {
        const float b = bias[i / OF(pixels) % a.k];
        __global float *to = y + i / OF(pixels) * pixels;
        EACH(j, i % pixels, pixels) to[j] = rs_activate(to[j] + b, a.activation);
    }
}
