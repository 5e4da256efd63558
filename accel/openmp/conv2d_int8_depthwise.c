/* Integer depthwise convolution on blocked channels: one vector of channels times one vector of weights a tap.

       acc = sum over r,s of  values[c,r,s] * (x[n, c, p*st + r*dl - top, q*st + s*dl - left] - zero_point) + bias
       y   = rs_int8.h's rule;  padding holds zero_point, so a tap that falls outside the image adds nothing

   Weights    [c / V][r][s][V c] int8
   Reads      x int8 nchw<V>c;  pack[0] weights;  pack[1] int64 {1, zero_point};  pack[2..4] constant, requant, unit
   Writes     y nchw<V>c, int8 or float32
   Threads    one output row of one block of channels at a time
   Cost       n*c*p*q * r*s multiply-adds, V an instruction */
#include "rs_int8.h"

RS_INLINE void tile(const rs_args *a, const rs_finish *f, int64_t plane, int64_t b, int64_t p, int64_t q, rs_ivec zero,
                    const int PX, const int CHECK) {
    const int8_t *x = (const int8_t *)a->x[0] + plane * a->h * a->w * RS_V;
    const int8_t *w = (const int8_t *)a->pack[0] + b * a->r * a->s * RS_V;
    const int64_t st = a->st[1];
    rs_ivec acc[4];
    RS_UNROLL for (int i = 0; i < PX; i++) acc[i] = *(const rs_ivec_any *)(f->constant + b * RS_V);
    for (int64_t r = 0; r < a->r; r++) {
        const int64_t h = p * a->st[0] + r * a->dl[0] - a->pd[0];
        if (h < 0 || h >= a->h) continue;
        for (int64_t s = 0; s < a->s; s++) {
            const int64_t from = q * st + s * a->dl[1] - a->pd[1];
            const int8_t *line = x + (h * a->w + from) * RS_V;
            const rs_ivec tap = rs_bytes_at(w + (r * a->s + s) * RS_V);
            RS_UNROLL for (int i = 0; i < PX; i++)
                if (!CHECK || (from + i * st >= 0 && from + i * st < a->w))
                    acc[i] += tap * (rs_bytes_at(line + i * st * RS_V) - zero);
        }
    }
    rs_finish_block(a, f, b * RS_V, acc, PX, ((plane * a->p + p) * a->q + q) * RS_V);
}

void rs_conv2d_int8_depthwise(const rs_args *a) {
    const int64_t blocks = rs_ceil(a->c, RS_V);
    const rs_finish f = rs_finish_of(a, 2, blocks * RS_V);
    const rs_ivec zero = (rs_ivec){0} + (int32_t)((const int64_t *)a->pack[1])[1];
    /* pixels whose taps all lie inside the row */
    const int64_t inner = rs_min(rs_ceil(a->pd[1], a->st[1]), a->q), room = a->w + a->pd[1] - (a->s - 1) * a->dl[1];
    const int64_t outer = room > 0 ? rs_max(inner, rs_min(rs_ceil(room, a->st[1]), a->q)) : inner;
#pragma omp for collapse(3) schedule(static)
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t p = 0; p < a->p; p++) {
                const int64_t plane = n * blocks + b;
                int64_t q = 0;
                for (; q < inner; q++) tile(a, &f, plane, b, p, q, zero, 1, 1);
                for (; q + 4 <= outer; q += 4) tile(a, &f, plane, b, p, q, zero, 4, 0);
                for (; q < a->q; q++) tile(a, &f, plane, b, p, q, zero, 1, 1);
            }
}
