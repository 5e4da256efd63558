/* Integer kernels: the dot product of four bytes, and what becomes of a finished sum.

       float32 output   y = activation(float32(acc) * unit[k])
       int8 output      y = clamp(((acc * m0[k] + 2^(shift[k]-1)) >> shift[k]) + zero[k], low[k], high[k])   in 64 bits

   acc holds the whole sum of values * (x - zero_point) and the rounded bias. Everything is whole numbers up to the last
   step, so every kernel, build and number of threads gives the bits of formats/int8.py.

   Packed     constant int32 (K,)    what the sum starts from: the bias, and what offset inputs need taken off
              requant  int32 (5, K)  m0, shift, zero, low, high; all zero in lanes beyond k, so these write zeros
              unit     float32 (K,)
              K is k rounded up to RS_V in blocked kernels, k elsewhere */
#ifndef RS_INT8_H
#define RS_INT8_H

#include "rs.h"

#ifdef __AVX512VNNI__
#include <immintrin.h>
#endif

typedef int8_t rs_bytes __attribute__((vector_size(RS_V), aligned(1), may_alias));

/* acc[i] += sum over j < 4 of x[j] * w[4*i + j]: four unsigned bytes, the same for all lanes, times signed ones. */
RS_INLINE rs_ivec rs_dot4(rs_ivec acc, const uint8_t *x, const int8_t *w) {
#if defined(__AVX512VNNI__) && RS_V == 16
    int32_t four;
    memcpy(&four, x, 4);
    return (rs_ivec)_mm512_dpbusd_epi32((__m512i)acc, _mm512_set1_epi32(four), _mm512_loadu_si512(w));
#else
    const rs_ivec v = *(const rs_ivec_any *)w; /* lane i: bytes 4i .. 4i+3, the first one lowest (little endian) */
    return acc + (v << 24 >> 24) * x[0] + (v << 16 >> 24) * x[1] + (v << 8 >> 24) * x[2] + (v >> 24) * x[3];
#endif
}

typedef struct {
    const int32_t *constant, *m0, *shift, *zero, *low, *high;
    const float *unit;
} rs_finish;

/* From pack[first ..] of a kernel, for K output channels. */
RS_INLINE rs_finish rs_finish_of(const rs_args *a, int first, int64_t K) {
    const int32_t *requant = a->pack[first + 1];
    return (rs_finish){.constant = a->pack[first], .m0 = requant, .shift = requant + K, .zero = requant + 2 * K,
                       .low = requant + 3 * K, .high = requant + 4 * K, .unit = a->pack[first + 2]};
}

RS_INLINE int8_t rs_requantize(const rs_finish *f, int64_t k, int32_t acc) {
    const int64_t half = (int64_t)1 << f->shift[k] >> 1;
    const int64_t v = (((int64_t)acc * f->m0[k] + half) >> f->shift[k]) + f->zero[k];
    return (int8_t)rs_max(f->low[k], rs_min(f->high[k], v));
}

/* One sum, to y[0] as int8 or float32. */
RS_INLINE void rs_finish1(const rs_args *a, const rs_finish *f, int64_t k, int32_t acc, int64_t at) {
    if (a->to_int8) ((int8_t *)a->y)[at] = rs_requantize(f, k, acc);
    else ((float *)a->y)[at] = rs_activate1((float)acc * f->unit[k], a->activation);
}

/* Half a vector of sums at a time, in 64 bits. */
enum { RS_HALF = RS_V / 2 };
typedef int64_t rs_long __attribute__((vector_size(8 * RS_HALF)));
typedef int32_t rs_half __attribute__((vector_size(4 * RS_HALF), aligned(4), may_alias));
typedef int8_t rs_half_bytes __attribute__((vector_size(RS_HALF), aligned(1), may_alias));

RS_INLINE rs_long rs_widen(const int32_t *x) { return __builtin_convertvector(*(const rs_half *)x, rs_long); }
RS_INLINE rs_long rs_pick(rs_long mask, rs_long yes, rs_long no) { return (mask & yes) | (~mask & no); }

/* Sums of RS_V neighbouring channels, from k on, of PX neighbouring pixels, to y from `at` on. */
RS_INLINE void rs_finish_block(const rs_args *a, const rs_finish *f, int64_t k, const rs_ivec *acc, const int PX, int64_t at) {
    if (!a->to_int8) {
        const rs_vec unit = rs_load(f->unit + k);
        float *y = (float *)a->y + at;
        RS_UNROLL for (int i = 0; i < PX; i++)
            rs_store(y + i * RS_V, rs_activate(__builtin_convertvector(acc[i], rs_vec) * unit, a->activation));
        return;
    }
    int32_t sums[12][RS_V];
    memcpy(sums, acc, sizeof(int32_t) * RS_V * PX);
    RS_UNROLL for (int half = 0; half < RS_V; half += RS_HALF) {
        const int64_t j = k + half;
        const rs_long m0 = rs_widen(f->m0 + j), shift = rs_widen(f->shift + j), zero = rs_widen(f->zero + j);
        const rs_long low = rs_widen(f->low + j), high = rs_widen(f->high + j);
        const rs_long rounding = ((rs_long){0} + 1) << shift >> 1;
        for (int i = 0; i < PX; i++) {
            rs_long v = ((rs_widen(sums[i] + half) * m0 + rounding) >> shift) + zero;
            v = rs_pick(v < low, low, v);
            v = rs_pick(v > high, high, v);
            *(rs_half_bytes *)((int8_t *)a->y + at + i * RS_V + half) = __builtin_convertvector(v, rs_half_bytes);
        }
    }
}

#endif
