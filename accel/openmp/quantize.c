/* float32 to int8.

       q = clamp(round_half_even(x / scale) + zero_point, -128, 127)   in double;  NaN, which has no place, gives -128

   Division is slow, so x / scale is first taken as x * (1 / scale). That differs by a few units in the last of 53 bits,
   which matters only where the quotient lies next to a half: a vector with such a lane is divided after all.

   Reads      x float32 in any layout;  pack[0] double {scale};  pack[1] int64 {zero_point}
   Writes     y int8, same layout; zeros in lanes beyond c
   Threads    one plane of a block of channels at a time, or 4096 numbers
   Cost       bandwidth; bitwise */
#include <math.h>

#include "rs.h"

enum { CHUNK = 16, PIECE = 4096 };

/* 16 numbers. Written as plain loops: the compiler makes vectors of doubles of them. */
RS_INLINE void chunk(const float *x, int8_t *y, double scale, double inverse, double zero) {
    double t[CHUNK], nearest[CHUNK];
    int tie = 0;
    for (int i = 0; i < CHUNK; i++) t[i] = (double)x[i] * inverse;
    for (int i = 0; i < CHUNK; i++) nearest[i] = rint(t[i]);
    /* |t| below 2^20 carries an error below 2^-31; larger ones are clamped whichever way they round */
    for (int i = 0; i < CHUNK; i++) tie |= !(fabs(t[i] - nearest[i]) <= 0.5 - 0x1p-30); /* or NaN, or infinite */
    if (tie)
        for (int i = 0; i < CHUNK; i++) nearest[i] = rint((double)x[i] / scale);
    for (int i = 0; i < CHUNK; i++) {
        double v = nearest[i] + zero;
        v = v > -128 ? v : -128;
        v = v < 127 ? v : 127;
        y[i] = (int8_t)v;
    }
}

void rs_quantize_float32(const rs_args *a) {
    const double scale = *(const double *)a->pack[0], inverse = 1 / scale;
    const double zero = (double)*(const int64_t *)a->pack[1];
    const int64_t lanes = a->x_block, blocks = rs_ceil(a->c, lanes), count = a->n * blocks * a->h * a->w * lanes;
    const int64_t plane = a->h * a->w * lanes, size = lanes > 1 ? plane : PIECE, pieces = rs_ceil(count, size);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < pieces; i++) {
        const float *x = (const float *)a->x[0] + i * size;
        int8_t *y = (int8_t *)a->y + i * size;
        const int64_t here = rs_min(size, count - i * size);
        int64_t j = 0;
        for (; j + CHUNK <= here; j += CHUNK) chunk(x + j, y + j, scale, inverse, zero);
        if (j < here) {
            float some[CHUNK] = {0};
            int8_t made[CHUNK];
            memcpy(some, x + j, sizeof(float) * (here - j));
            chunk(some, made, scale, inverse, zero);
            memcpy(y + j, made, here - j);
        }
        const int64_t used = rs_min(lanes, a->c - i % blocks * lanes);
        for (int64_t w = 0; used < lanes && w < plane; w += lanes) memset(y + w + used, 0, lanes - used);
    }
}
