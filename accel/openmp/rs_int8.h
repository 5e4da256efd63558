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

#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef int8_t rs_bytes __attribute__((vector_size(RS_V), aligned(1), may_alias));
typedef int16_t rs_shorts __attribute__((vector_size(2 * RS_V)));
typedef uint32_t rs_uvec __attribute__((vector_size(4 * RS_V))); /* numbers modulo 2^32 */

/* RS_V bytes to int32 and back (values that fit). gcc makes single instructions only of steps to twice or half the
   width, and moves halves about in between; the intrinsics do it in one. */
RS_INLINE rs_ivec rs_bytes_at(const int8_t *x) {
#if defined(__AVX512F__) && RS_V == 16
    return (rs_ivec)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)x));
#else
    return __builtin_convertvector(__builtin_convertvector(*(const rs_bytes *)x, rs_shorts), rs_ivec);
#endif
}
RS_INLINE rs_shorts rs_shorts_at(const int8_t *x) {
#if defined(__AVX2__) && RS_V == 16
    return (rs_shorts)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)x));
#else
    return __builtin_convertvector(*(const rs_bytes *)x, rs_shorts);
#endif
}
RS_INLINE void rs_store_bytes(int8_t *y, rs_ivec v) {
#if defined(__AVX512F__) && RS_V == 16
    _mm_storeu_si128((__m128i *)y, _mm512_cvtepi32_epi8((__m512i)v));
#else
    *(rs_bytes *)y = __builtin_convertvector(__builtin_convertvector(v, rs_shorts), rs_bytes);
#endif
}

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

/* acc[i] += x[0] * w[2*i] + x[1] * w[2*i + 1] modulo 2^32: two 16-bit numbers, the same for all lanes. */
RS_INLINE rs_ivec rs_dot2(rs_ivec acc, const int16_t *x, const int16_t *w) {
#if defined(__AVX512VNNI__) && RS_V == 16
    int32_t two;
    memcpy(&two, x, 4);
    return (rs_ivec)_mm512_dpwssd_epi32((__m512i)acc, _mm512_set1_epi32(two), _mm512_loadu_si512(w));
#else
    const rs_ivec v = *(const rs_ivec_any *)w; /* lane i: numbers 2i and 2i+1, the first one lower (little endian) */
    return (rs_ivec)((rs_uvec)acc + (rs_uvec)((v << 16 >> 16) * x[0]) + (rs_uvec)((v >> 16) * x[1]));
#endif
}

/* acc + x * w of lanes whose values fit 16 bits. */
RS_INLINE rs_ivec rs_multiply_add(rs_ivec acc, rs_ivec x, rs_ivec w) {
#if defined(__AVX512VNNI__) && RS_V == 16
    /* the sum of two 16-bit products, of which the upper one is made zero */
    return (rs_ivec)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)x, (__m512i)(w & 0xffff));
#else
    return acc + x * w;
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

/* The same for a vector of sums. 64-bit lanes are the even and the odd 32-bit lanes, each with its sign drawn out, so
   nothing crosses lanes on the way there and back. */
typedef int64_t rs_long __attribute__((vector_size(4 * RS_V)));

RS_INLINE rs_long rs_even(rs_ivec x) { return (rs_long)x << 32 >> 32; }
RS_INLINE rs_long rs_odd(rs_ivec x) { return (rs_long)x >> 32; }
RS_INLINE rs_long rs_clamp(rs_long x, rs_long low, rs_long high) {
#if defined(__AVX512F__) && RS_V == 16
    return (rs_long)_mm512_max_epi64((__m512i)low, _mm512_min_epi64((__m512i)high, (__m512i)x));
#else
    const rs_long below = x < low, above = x > high;
    return (below & low) | (above & high) | (~(below | above) & x);
#endif
}

/* x * m of lanes that hold 32-bit values. */
RS_INLINE rs_long rs_multiply(rs_long x, rs_long m) {
#if defined(__AVX512F__) && RS_V == 16
    return (rs_long)_mm512_mul_epi32((__m512i)x, (__m512i)m);
#else
    return x * m;
#endif
}

/* The rule in 64 bits for RS_V neighbouring channels, from k on. */
typedef struct {
    rs_long m0, shift, half, zero, low, high;
} rs_scaling;

RS_INLINE rs_long rs_scale(rs_long acc, const rs_scaling *s) {
    return rs_clamp(((rs_multiply(acc, s->m0) + s->half) >> s->shift) + s->zero, s->low, s->high);
}

typedef struct {
    rs_scaling even, odd;
} rs_exact;

RS_INLINE rs_exact rs_exact_of(const rs_finish *f, int64_t k) {
    rs_exact exact;
#define RS_LANES(WHICH, FIELD) exact.WHICH.FIELD = rs_##WHICH(*(const rs_ivec_any *)(f->FIELD + k))
#define RS_SCALING(WHICH)                                                                                             \
    RS_LANES(WHICH, m0), RS_LANES(WHICH, shift), RS_LANES(WHICH, zero), RS_LANES(WHICH, low), RS_LANES(WHICH, high), \
        exact.WHICH.half = ((rs_long){0} + 1) << exact.WHICH.shift >> 1
    RS_SCALING(even);
    RS_SCALING(odd);
    return exact;
}

RS_INLINE void rs_finish_exact(const rs_exact *exact, rs_ivec acc, int8_t *y) {
    const rs_long lower = rs_scale(rs_even(acc), &exact->even), upper = rs_scale(rs_odd(acc), &exact->odd) << 32;
    rs_store_bytes(y, (rs_ivec)((lower & 0xffffffff) | upper));
}

#if defined(__AVX512BW__) && defined(__AVX512DQ__) && RS_V == 16
/* With 32-bit floats a product is off by less than 2^-22 of itself. So one with a multiplier 2^-21 too small and one
   with a multiplier 2^-21 too large lie on both sides of the true one; where they round to the same number, that is
   the answer, and else (a tie, or next to one: some lanes in 10,000) 64 bits decide. */
#define RS_SLIGHTLY 0x1p-21f

/* Four vectors of whole numbers + zero, as bytes; what does not fit becomes the nearest that does. */
RS_INLINE __m512i rs_pack4(const __m512i *v, __m512i zero) {
    const __m512i lower = _mm512_adds_epi16(_mm512_packs_epi32(v[0], v[1]), zero);
    const __m512i upper = _mm512_adds_epi16(_mm512_packs_epi32(v[2], v[3]), zero);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, _mm512_packs_epi16(lower, upper));
}

/* A number between x * less and x * more, rounded; lanes of `doubt` in which these round apart are no longer 0. */
RS_INLINE __m512i rs_round(__m512 x, __m512 less, __m512 more, __m512i *doubt) {
    const __m512i lower = _mm512_cvtps_epi32(_mm512_mul_ps(x, less));
    const __m512i upper = _mm512_cvtps_epi32(_mm512_mul_ps(x, more));
    *doubt = _mm512_or_si512(*doubt, _mm512_xor_si512(lower, upper));
    return lower;
}

/* The rule for RS_V neighbouring channels, from k on: made once, used for many pixels. */
typedef struct {
    const rs_finish *f;
    int64_t k;
    rs_vec unit;
    __m512 less, more;
    __m512i zero;
    __m128i low, high;
    int sure; /* no product can be beyond int32 */
} rs_rule;

RS_INLINE rs_rule rs_rule_of(const rs_args *a, const rs_finish *f, int64_t k) {
    rs_rule rule = {.f = f, .k = k};
    if (!a->to_int8) {
        rule.unit = rs_load(f->unit + k);
        return rule;
    }
    const __m512i m0 = _mm512_loadu_si512(f->m0 + k), shift = _mm512_loadu_si512(f->shift + k);
    const __m512i power = _mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(127), shift), 23); /* 2^-shift */
    const __m512 m = _mm512_mul_ps(_mm512_cvtepi32_ps(m0), _mm512_castsi512_ps(power));
    rule.less = _mm512_mul_ps(m, _mm512_set1_ps(1 - RS_SLIGHTLY));
    rule.more = _mm512_mul_ps(m, _mm512_set1_ps(1 + RS_SLIGHTLY));
    rule.zero = _mm512_set1_epi16((int16_t)f->zero[k]);
    rule.low = _mm512_cvtepi32_epi8(_mm512_loadu_si512(f->low + k));
    rule.high = _mm512_cvtepi32_epi8(_mm512_loadu_si512(f->high + k));
    const __m512 half = _mm512_set1_ps(0.5f);
    rule.sure = _mm512_cmp_ps_mask(m, half, _CMP_GE_OQ) == 0;
    return rule;
}

__attribute__((noinline)) static void rs_finish_again(const rs_finish *f, int64_t k, rs_ivec acc, int8_t *y) {
    const rs_exact exact = rs_exact_of(f, k);
    rs_finish_exact(&exact, acc, y);
}

RS_INLINE void rs_finish_bytes(const rs_rule *rule, const rs_ivec *acc, const int PX, int8_t *y) {
    const __m512i low = _mm512_broadcast_i32x4(rule->low), high = _mm512_broadcast_i32x4(rule->high);
    __m512i doubt = _mm512_setzero_si512();
    RS_UNROLL for (int i = 0; i < PX; i += 4) {
        __m512i v[4];
        RS_UNROLL for (int j = 0; j < 4; j++)
            v[j] = i + j >= PX ? v[0]
                               : rs_round(_mm512_cvtepi32_ps((__m512i)acc[i + j]), rule->less, rule->more, &doubt);
        const __m512i bytes = _mm512_max_epi8(low, _mm512_min_epi8(high, rs_pack4(v, rule->zero)));
        if (i + 4 <= PX) _mm512_storeu_si512(y + i * RS_V, bytes);
        else if (PX - i == 2) _mm256_storeu_si256((__m256i *)(y + i * RS_V), _mm512_castsi512_si256(bytes));
        else _mm_storeu_si128((__m128i *)(y + i * RS_V), _mm512_castsi512_si128(bytes));
    }
    if (__builtin_expect(!rule->sure || _mm512_test_epi32_mask(doubt, doubt), 0))
        RS_UNROLL for (int i = 0; i < PX; i++) rs_finish_again(rule->f, rule->k, acc[i], y + i * RS_V);
}
#else
typedef struct {
    rs_exact exact;
    rs_vec unit;
} rs_rule;

RS_INLINE rs_rule rs_rule_of(const rs_args *a, const rs_finish *f, int64_t k) {
    if (a->to_int8) return (rs_rule){.exact = rs_exact_of(f, k)};
    return (rs_rule){.unit = rs_load(f->unit + k)};
}

RS_INLINE void rs_finish_bytes(const rs_rule *rule, const rs_ivec *acc, const int PX, int8_t *y) {
    RS_UNROLL for (int i = 0; i < PX; i++) rs_finish_exact(&rule->exact, acc[i], y + i * RS_V);
}
#endif

/* Sums of PX (1, 2 or a multiple of 4, or 2 more) neighbouring pixels, to y from `at` on. */
RS_INLINE void rs_finish_block(const rs_args *a, const rs_rule *rule, const rs_ivec *acc, const int PX, int64_t at) {
    if (a->to_int8) {
        rs_finish_bytes(rule, acc, PX, (int8_t *)a->y + at);
        return;
    }
    float *y = (float *)a->y + at;
    RS_UNROLL for (int i = 0; i < PX; i++)
        rs_store(y + i * RS_V, rs_activate(__builtin_convertvector(acc[i], rs_vec) * rule->unit, a->activation));
}

#endif
