/* What stands before and behind a library's matrix product.

       im2col             columns[n, (c,r,s), (p,q)] = x[n, c, p*st + r*dl - top, q*st + s*dl - left], zeros outside
       bias_activation    y[n,k,p,q] = activation(y[n,k,p,q] + bias[k])

   Reads      x nchw;  bias (k,);  w is the library's
   Writes     columns, then y in place
   Work-item  RUNS = 1, processors: a row of q numbers, a plane of y;  RUNS = 0, GPUs: one number
   Cost       bandwidth: r*s as many numbers as x has, written here and read by the product */
#if RUNS
#define OF(count) 1
#define EACH(j, part, count) for (int j = 0; j < (count); j++)
#else
#define OF(count) (count)
#define EACH(j, part, count) const int j = part;
#endif

RS_KERNEL im2col(__global const float *x, __global float *y, __global const float *bias, __global const float *w,
                 __global float *columns, const rs_args a RS_PLACE) {
    RS_EACH(i, a.n * a.c * a.r * a.s * a.p * OF(a.q)) {
        const int row = i / OF(a.q), p = row % a.p, s = row / a.p % a.s, r = row / (a.p * a.s) % a.r;
        const int plane = row / (a.p * a.s * a.r), h = rs_tap(p, r, a.st0, a.dl0, a.pd0, a.h);
        __global float *to = columns + row * a.q;
        if (h < 0) {
            EACH(q, i % a.q, a.q) to[q] = 0;
        } else {
            __global const float *from = x + (plane * a.h + h) * a.w;
#if RUNS /* zeros, numbers, zeros: loops that a compiler can make vectors of */
            const int shift = s * a.dl1 - a.pd1;
            const int first = min(a.q, max(0, (a.st1 - 1 - shift) / a.st1));
            const int end = max(first, min(a.q, (a.w - 1 - shift + a.st1) / a.st1));
            for (int q = 0; q < first; q++) to[q] = 0;
            if (a.st1 == 1) {
                for (int q = first; q < end; q++) to[q] = from[q + shift];
            } else {
                for (int q = first; q < end; q++) to[q] = from[q * a.st1 + shift];
            }
            for (int q = end; q < a.q; q++) to[q] = 0;
#else
            const int v = rs_tap(i % a.q, s, a.st1, a.dl1, a.pd1, a.w);
            to[i % a.q] = v < 0 ? 0 : from[v];
#endif
        }
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
