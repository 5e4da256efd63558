/* A vector of weights from half precision: widened without rounding, so what follows is dense arithmetic.

   Stored     bit   15 | 14 .. 10 | 9 .. 0          (-1)^sign * 2^(exponent - 15) * 1.fraction, and for exponent 0
                  sign | exponent | fraction        2^-14 * 0.fraction; infinities and NaN are no weights */
#ifndef RS_HALF_H
#define RS_HALF_H

#include "rs.h"

#if (defined(__AVX512F__) && RS_V == 16) || (defined(__F16C__) && RS_V == 8)
#include <immintrin.h>
#endif

typedef uint16_t rs_stored;
#define RS_STORED RS_V

RS_INLINE rs_vec rs_weights(const rs_stored *w, rs_vec table) {
    (void)table;
#if defined(__AVX512F__) && RS_V == 16
    return (rs_vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)w));
#elif defined(__F16C__) && RS_V == 8
    return (rs_vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)w));
#else
    /* exponent and fraction as those of a float are 2^112 times too small, whatever the exponent was */
    rs_ivec bits;
    for (int i = 0; i < RS_V; i++) bits[i] = w[i];
    const rs_vec size = (rs_vec)((bits & 0x7fff) << 13) * 0x1p112f;
    return (rs_vec)((rs_ivec)size | (bits & 0x8000) << 16);
#endif
}

#endif
