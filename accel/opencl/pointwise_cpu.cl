/* Layers that weigh nothing, for processors: vectors of LANES = V channels in nchw16c, rows of numbers in nchw
   (LANES = 1), which compilers cut into vectors themselves.

       relu       y = activation(x)                      add        y = activation(x0 + x1)
       batchnorm  y = (x - mean[c]) * a[c] + bias[c]
       maxpool    y = the largest of each window; NaN if there is one       avgpool, globalavgpool   the mean
       quantize   y = clamp(round_half_even(x / scale) + zero_point, -128, 127) in double;  NaN, which has no place,
                  -128

   Reads      x, or x0 and x1;  batchnorm: bias, mean, a (c rounded up to LANES,);  avgpool: int64 {count_include_pad};
              quantize: double {scale}, int64 {zero_point}
   Writes     y, lanes beyond c as zeros
   Work-item  relu, add, quantize: 1024 numbers;  batchnorm: a plane;  globalavgpool: a plane (16 of nchw);  maxpool,
              avgpool: an output row (a plane of nchw)
   Cost       bandwidth */
#if DOUBLES
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif
#include "rs_cpu.cl"

#define PIECE 1024
#if LANES == 1
typedef float rs_real;
typedef char rs_byte;
#else
typedef rs_vec rs_real;
typedef char16 rs_byte;
#endif

/* Numbers of the input's planes. */
RS_INLINE int numbers(rs_args a) { return a.n * rs_ceil(a.c, LANES) * a.h * a.w * LANES; }

#define PIECES(vector, one)                                                                                            \
    const int end = min(numbers(a), (rs_item(0) + 1) * PIECE);                                                         \
    int i = rs_item(0) * PIECE;                                                                                        \
    for (; i + V <= end; i += V) vector;                                                                               \
    for (; i < end; i++) one;

RS_ALONE relu(__global const float *x, __global float *y, const rs_args a RS_WHICH) {
    PIECES(rs_store(y + i, rs_activate_all(rs_load(x + i), a.activation)), y[i] = rs_activate(x[i], a.activation))
}

RS_ALONE add(__global const float *x0, __global const float *x1, __global float *y, const rs_args a RS_WHICH) {
    PIECES(rs_store(y + i, rs_activate_all(rs_load(x0 + i) + rs_load(x1 + i), a.activation)),
           y[i] = rs_activate(x0[i] + x1[i], a.activation))
}

RS_ALONE batchnorm(__global const rs_real *x, __global rs_real *y, __global const rs_real *bias,
                   __global const rs_real *mean, __global const rs_real *scale, const rs_args a RS_WHICH) {
    const int plane = rs_item(0), c = plane % rs_ceil(a.c, LANES), pixels = a.h * a.w;
    const rs_real m = mean[c], s = scale[c], b = bias[c];
    x += plane * pixels, y += plane * pixels;
    for (int i = 0; i < pixels; i++) y[i] = (x[i] - m) * s + b;
}

/* One output row of a plane, or a whole one: take(x) for every pixel of a window that lies inside the image. Windows of
   2x2 at stride 2, the commonest, have no branch. */
#define WINDOWS(begin, take, finish)                                                                                   \
    const int rows = LANES > 1 ? 1 : a.p, first = rs_item(0) * rows;                                                   \
    const int pairs = a.r == 2 && a.s == 2 && a.st0 == 2 && a.st1 == 2 && a.dl0 == 1 && a.dl1 == 1 &&                  \
                      !(a.pd0 | a.pd1 | a.pd2 | a.pd3);                                                                \
    x += first / a.p * a.h * a.w, y += first * a.q;                                                                    \
    for (int p = first % a.p, end = p + rows; p < end; p++, y += a.q)                                                  \
        if (pairs) {                                                                                                   \
            const int at = 2 * p * a.w;                                                                                \
            for (int q = 0; q < a.q; q++) {                                                                            \
                begin;                                                                                                 \
                take(x[at + 2 * q]) take(x[at + 2 * q + 1]);                                                           \
                take(x[at + a.w + 2 * q]) take(x[at + a.w + 2 * q + 1]) finish;                                        \
            }                                                                                                          \
        } else                                                                                                         \
            for (int q = 0; q < a.q; q++) {                                                                            \
                begin;                                                                                                 \
                for (int r = 0; r < a.r; r++) {                                                                        \
                    const int h = rs_tap(p, r, a.st0, a.dl0, a.pd0, a.h);                                              \
                    for (int s = 0; s < a.s && h >= 0; s++) {                                                          \
                        const int w = rs_tap(q, s, a.st1, a.dl1, a.pd1, a.w);                                          \
                        if (w >= 0) { take(x[h * a.w + w]) }                                                           \
                    }                                                                                                  \
                }                                                                                                      \
                finish;                                                                                                \
            }

RS_ALONE maxpool_float32(__global const rs_real *restrict x, __global rs_real *restrict y, const rs_args a RS_WHICH) {
#define LARGEST(v) { const rs_real new = v; most = new > most ? new : new != new ? new : most; }
    WINDOWS(rs_real most = -INFINITY, LARGEST, y[q] = most)
}

RS_ALONE maxpool_int8(__global const rs_byte *restrict x, __global rs_byte *restrict y, const rs_args a RS_WHICH) {
#define LARGER(v) { const rs_byte new = v; most = new > most ? new : most; }
    WINDOWS(rs_byte most = -128, LARGER, y[q] = most)
}

RS_ALONE avgpool(__global const rs_real *restrict x, __global rs_real *restrict y, __global const long *include_pad,
                 const rs_args a RS_WHICH) {
    const int padded = include_pad[0];
#define COUNTED(v) sum += v, inside++;
    WINDOWS(rs_real sum = 0; int inside = 0, COUNTED, y[q] = sum / (float)(padded ? a.r * a.s : inside))
}

RS_ALONE globalavgpool(__global const float *x, __global float *y, const rs_args a RS_WHICH) {
    const int pixels = a.h * a.w;
#if LANES == 1
    for (int plane = rs_item(0) * 16, end = min(a.n * a.c, plane + 16); plane < end; plane++) {
        rs_lanes sums = {.v = 0};
        float rest = 0;
        int i = 0;
        for (; i + V <= pixels; i += V) sums.v += rs_load(x + plane * pixels + i);
        for (int j = 0; i && j < V; j++) rest += sums.lane[j];
        for (; i < pixels; i++) rest += x[plane * pixels + i];
        y[plane] = rest / pixels;
    }
#else
    rs_vec sum = 0;
    x += rs_item(0) * pixels * V;
    for (int i = 0; i < pixels; i++) sum += rs_load(x + i * V);
    rs_store(y + rs_item(0) * V, sum / (float)pixels);
#endif
}

#if DOUBLES
RS_INLINE char divided(float x, double scale, double zero) {
    const double v = rint((double)x / scale) + zero;
    return v > -128 ? (char)(v < 127 ? v : 127) : -128;
}

/* Double precision and its division are slow, so x / scale is first taken as float(x * (1 / scale)). Below 2^9 that is
   off by less than 2^-13, which matters only where the quotient lies next to a half: a vector with such a lane is
   divided. So is everything where 1 / scale comes near the ends of what float holds. */
RS_ALONE quantize(__global const float *x, __global char *y, __global const double *scale,
                  __global const long *zero_point, const rs_args a RS_WHICH) {
    const double by = scale[0];
    const float inverse = by > 0x1p-100 && by < 0x1p100 ? (float)(1 / by) : 0;
    const int zero = zero_point[0];
    const rs_vec low = (float)(-128 - zero), high = (float)(127 - zero), shift = 0x1.8p23f;
    const int end = min(numbers(a), (rs_item(0) + 1) * PIECE);
    int i = rs_item(0) * PIECE;
    for (; i + V <= end; i += V) {
        rs_vec t = rs_load(x + i) * inverse;
        t = t < low ? low : t;
        t = t > high ? high : t; /* at whole numbers, so rounding changes no end */
        const rs_vec moved = t + shift; /* from 2^23 on a float has no place for fractions */
        const rs_vec nearest = moved - shift, off = as_float16(as_int16(t - nearest) & 0x7fffffff);
        const ulong8 bad = as_ulong8(~(off <= 0.5f - 0x1p-12f)); /* a tie, or NaN, which passes the selects */
        const ulong4 some = bad.lo | bad.hi;
        const int c = i / (a.h * a.w * LANES) % rs_ceil(a.c, LANES) * LANES;
        if (!inverse || (some.s0 | some.s1 | some.s2 | some.s3))
            for (int j = 0; j < V; j++) y[i + j] = divided(x[i + j], by, zero);
        else rs_store_bytes(y + i, as_int16(moved) - 0x4b400000 + zero); /* the last bits of 1.5 * 2^23 + t */
        for (int j = a.c - c; LANES > 1 && j < V; j++) y[i + j] = 0;
    }
    for (; i < end; i++) y[i] = divided(x[i], by, zero);
}
#endif
