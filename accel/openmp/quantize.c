/* float32 to int8.

       q = clamp(round_half_even(x / scale) + zero_point, -128, 127)   in double;  NaN, which has no place, gives -128

   Double precision and its division are slow, so x / scale is first taken as float(x * (1 / scale)). Below 2^9 that is
   off by less than 2^-13, which matters only where the quotient lies next to a half: a vector with such a lane is
   divided. With AVX-512 that is seen as in rs_int8.h, four vectors at a time.
   Divided is also everything where 1 / scale comes near the ends of what float holds.

   Reads      x float32 in any layout;  pack[0] double {scale};  pack[1] int64 {zero_point}
   Writes     y int8, same layout; zeros in lanes beyond c
   Threads    one plane of a block of channels at a time, or 4096 numbers
   Cost       bandwidth; bitwise */
#include <math.h>

#include "rs_int8.h"

enum { PIECE = 4096 };

/* Whether a lane is not 0. */
RS_INLINE int any(rs_ivec lanes) {
#if defined(__AVX512F__) && RS_V == 16
    return _mm512_test_epi32_mask((__m512i)lanes, (__m512i)lanes) != 0;
#else
    int32_t found = 0;
    for (int i = 0; i < RS_V; i++) found |= lanes[i];
    return found != 0;
#endif
}

static void divide(const float *x, int8_t *y, double scale, double zero) {
    for (int i = 0; i < RS_V; i++) {
        const double v = rint((double)x[i] / scale) + zero;
        y[i] = (int8_t)(v > -128 ? v < 127 ? v : 127 : -128);
    }
}

/* RS_V numbers. */
RS_INLINE void vector(const float *x, int8_t *y, double scale, float inverse, int32_t zero) {
    const rs_vec low = rs_all((float)(-128 - zero)), high = rs_all((float)(127 - zero));
    const rs_vec shift = rs_all(0x1.8p23f); /* from 2^23 on a float has no place for fractions */
    rs_vec t = rs_load(x) * inverse;
    t = rs_select(t > high, high, rs_select(t < low, low, t)); /* at whole numbers, so rounding changes no end */
    const rs_vec nearest = (t + shift) - shift, off = (rs_vec)((rs_ivec)(t - nearest) & 0x7fffffff);
    if (!inverse || any(~(off <= 0.5f - 0x1p-12f))) { /* a tie, or NaN, which passes the selects */
        divide(x, y, scale, zero);
        return;
    }
    rs_store_bytes(y, __builtin_convertvector(nearest, rs_ivec) + zero);
}

/* As many of `count` numbers as whole groups of vectors hold; their number. */
static int64_t groups(const float *x, int8_t *y, int64_t count, double scale, float inverse, int32_t zero) {
    int64_t j = 0;
#if defined(__AVX512BW__) && defined(__AVX512DQ__) && RS_V == 16
    const __m512 most = _mm512_set1_ps((float)(1024 * scale)), least = _mm512_set1_ps((float)(-1024 * scale));
    const __m512 less = _mm512_set1_ps(inverse * (1 - RS_SLIGHTLY)), more = _mm512_set1_ps(inverse * (1 + RS_SLIGHTLY));
    const __m512i zeros = _mm512_set1_epi16((int16_t)zero);
    for (; inverse && j + 64 <= count; j += 64) {
        __m512i v[4], doubt = _mm512_setzero_si512();
        RS_UNROLL for (int i = 0; i < 4; i++) { /* of a NaN and a number the instruction takes the second */
            const __m512 some = _mm512_min_ps(_mm512_max_ps(_mm512_loadu_ps(x + j + RS_V * i), least), most);
            v[i] = rs_round(some, less, more, &doubt);
        }
        _mm512_storeu_si512(y + j, rs_pack4(v, zeros));
        if (__builtin_expect(_mm512_test_epi32_mask(doubt, doubt), 0))
            for (int i = 0; i < 64; i += RS_V) divide(x + j + i, y + j + i, scale, zero);
    }
#endif
    return j;
}

void rs_quantize_float32(const rs_args *a) {
    const double scale = *(const double *)a->pack[0];
    const float inverse = scale > 0x1p-100 && scale < 0x1p100 ? (float)(1 / scale) : 0;
    const int32_t zero = (int32_t)*(const int64_t *)a->pack[1];
    const int64_t lanes = a->x_block, blocks = rs_ceil(a->c, lanes), count = a->n * blocks * a->h * a->w * lanes;
    const int64_t plane = a->h * a->w * lanes, size = lanes > 1 ? plane : PIECE, pieces = rs_ceil(count, size);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < pieces; i++) {
        const float *x = (const float *)a->x[0] + i * size;
        int8_t *y = (int8_t *)a->y + i * size;
        const int64_t here = rs_min(size, count - i * size);
        int64_t j = groups(x, y, here, scale, inverse, zero);
        for (; j + RS_V <= here; j += RS_V) vector(x + j, y + j, scale, inverse, zero);
        if (j < here) {
            float some[RS_V] = {0};
            int8_t made[RS_V];
            memcpy(some, x + j, sizeof(float) * (here - j));
            vector(some, made, scale, inverse, zero);
            memcpy(y + j, made, here - j);
        }
        const int64_t used = rs_min(lanes, a->c - i % blocks * lanes);
        for (int64_t w = 0; used < lanes && w < plane; w += lanes) memset(y + w + used, 0, lanes - used);
    }
}
