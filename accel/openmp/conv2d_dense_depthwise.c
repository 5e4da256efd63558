/* Depthwise convolution on blocked channels: every channel has a filter of its own, so a vector of RS_V channels
   meets a vector of RS_V weights and nothing is broadcast.

       y[n,c,p,q] = activation(bias[c] + sum over r,s of  x[n, c, p*st + r*dl - top, q*st + s*dl - left] * w[c,r,s])

   where a tap that falls outside the image contributes nothing.

   Weights    [c / V][r][s][V c]
   Reads      x nchw<V>c;  pack[0] weights;  bias (c rounded up to V)
   Writes     y nchw<V>c
   Threads    one output row of one block of channels at a time
   Cost       n*c*p*q * r*s multiply-adds, one load each: half the speed of a dense tile at best */
#include "rs.h"

/* PX neighbouring pixels of one row. CHECK: some of their taps may lie left or right of the image. */
RS_INLINE void tile(const rs_args *a, const float *x, const float *w, rs_vec bias, float *y, int64_t p, int64_t q,
                    const int PX, const int CHECK) {
    rs_vec acc[8];
    RS_UNROLL for (int i = 0; i < PX; i++) acc[i] = bias;
    const int64_t st = a->st[1];
    for (int64_t r = 0; r < a->r; r++) {
        const int64_t h = p * a->st[0] + r * a->dl[0] - a->pd[0];
        if (h < 0 || h >= a->h) continue;
        for (int64_t s = 0; s < a->s; s++) {
            const int64_t from = q * st + s * a->dl[1] - a->pd[1];
            const float *line = x + h * a->w * RS_V + from * RS_V;
            const rs_vec tap = rs_load(w + (r * a->s + s) * RS_V);
            RS_UNROLL for (int i = 0; i < PX; i++)
                if (!CHECK || (from + i * st >= 0 && from + i * st < a->w)) acc[i] += tap * rs_load(line + i * st * RS_V);
        }
    }
    RS_UNROLL for (int i = 0; i < PX; i++) rs_store(y + (q + i) * RS_V, rs_activate(acc[i], a->activation));
}

void rs_conv2d_dense_depthwise(const rs_args *a) {
    const int64_t blocks = rs_ceil(a->c, RS_V);
    /* pixels whose taps all lie inside the row */
    const int64_t inner = rs_min(rs_ceil(a->pd[1], a->st[1]), a->q);
    const int64_t room = a->w + a->pd[1] - (a->s - 1) * a->dl[1];
    const int64_t outer = room > 0 ? rs_max(inner, rs_min(rs_ceil(room, a->st[1]), a->q)) : inner;
#pragma omp for collapse(3) schedule(static)
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t p = 0; p < a->p; p++) {
                const float *x = (const float *)a->x[0] + (n * blocks + b) * a->h * a->w * RS_V;
                const float *w = (const float *)a->pack[0] + b * a->r * a->s * RS_V;
                float *y = (float *)a->y + ((n * blocks + b) * a->p + p) * a->q * RS_V;
                const rs_vec bias = rs_load(a->bias + b * RS_V);
                int64_t q = 0;
                for (; q < inner; q++) tile(a, x, w, bias, y, p, q, 1, 1);
                for (; q + 8 <= outer; q += 8) tile(a, x, w, bias, y, p, q, 8, 0);
                for (; q + 2 <= outer; q += 2) tile(a, x, w, bias, y, p, q, 2, 0);
                for (; q < a->q; q++) tile(a, x, w, bias, y, p, q, 1, 1);
            }
}
