/* Depthwise convolution on blocked channels: every channel has a filter of its own, so a vector of RS_V channels
   meets a vector of RS_V weights and nothing is broadcast. Images side by side share a weight: LANES is 1 then.

       y[n,c,p,q] = activation(bias[c] + sum over r,s of  x[n, c, p*st + r*dl - top, q*st + s*dl - left] * w[c,r,s])

   where a tap that falls outside the image contributes nothing: rows of them are skipped, and pixels near the sides are
   computed one by one, with the taps s0 .. s1 - 1 that they have.

   Weights    [c / V][r][s][V c], or [c][r][s] where images lie side by side
   Reads      x nchw<V>c or nchw<V>n;  pack[0] weights;  bias (c rounded up to V), or of each c V times
   Writes     y, layout of x
   Threads    one output row of one block of channels at a time
   Cost       n*c*p*q * r*s multiply-adds less those in padding; each takes a load, so loads bound it */
#include "rs.h"

/* One output row: x is the plane of its block, y the row. */
typedef struct {
    const rs_args *a;
    const float *x, *w;
    float *y;
    rs_vec bias;
    int64_t p;
} line;

/* PX neighbouring pixels with taps s0 .. s1 - 1 of R x S. */
RS_INLINE void tile(const line *m, int64_t q, int64_t s0, int64_t s1, const int64_t R, const int64_t S, const int LANES,
                  const int PX) {
    const rs_args *a = m->a;
    const int64_t st = a->st[1] * RS_V, dl = a->dl[1] * RS_V;
    rs_vec acc[8];
    RS_UNROLL for (int i = 0; i < PX; i++) acc[i] = m->bias;
    for (int64_t r = 0; r < R; r++) {
        const int64_t h = m->p * a->st[0] + r * a->dl[0] - a->pd[0];
        if (h < 0 || h >= a->h) continue;
        const float *x = m->x + (h * a->w - a->pd[1]) * RS_V + q * st + s0 * dl, *w = m->w + (r * S + s0) * LANES;
        for (int64_t s = s0; s < s1; s++, x += dl, w += LANES) {
            const rs_vec tap = LANES == 1 ? rs_all(*w) : rs_load(w);
            RS_UNROLL for (int i = 0; i < PX; i++) acc[i] += tap * rs_load(x + i * st);
        }
    }
    RS_UNROLL for (int i = 0; i < PX; i++) rs_store(m->y + (q + i) * RS_V, rs_activate(acc[i], a->activation));
}

/* A pixel some of whose taps may lie left or right of the image. */
RS_INLINE void edge(const line *m, int64_t q, const int64_t R, const int64_t S, const int LANES) {
    const rs_args *a = m->a;
    const int64_t from = q * a->st[1] - a->pd[1];
    int64_t s0 = 0, s1 = S;
    while (s0 < s1 && from + s0 * a->dl[1] < 0) s0++;
    while (s1 > s0 && from + (s1 - 1) * a->dl[1] >= a->w) s1--;
    tile(m, q, s0, s1, R, S, LANES, 1);
}

/* A whole row; the taps of pixels inner .. outer - 1 all lie inside the image. */
RS_INLINE void row(const line *m, int64_t inner, int64_t outer, const int64_t R, const int64_t S,
                 const int LANES) {
    int64_t q = 0;
    for (; q < inner; q++) edge(m, q, R, S, LANES);
    for (; q + 8 <= outer; q += 8) tile(m, q, 0, S, R, S, LANES, 8);
    for (; q + 4 <= outer; q += 4) tile(m, q, 0, S, R, S, LANES, 4);
    for (; q + 2 <= outer; q += 2) tile(m, q, 0, S, R, S, LANES, 2);
    for (; q < m->a->q; q++) edge(m, q, R, S, LANES);
}

RS_INLINE void layer(const rs_args *a, const int LANES) {
    const int64_t blocks = rs_ceil(a->c, RS_V);
    const int64_t inner = rs_min(rs_ceil(a->pd[1], a->st[1]), a->q), room = a->w + a->pd[1] - (a->s - 1) * a->dl[1];
    const int64_t outer = room > 0 ? rs_max(inner, rs_min(rs_ceil(room, a->st[1]), a->q)) : inner;
#pragma omp for collapse(3) schedule(static)
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t p = 0; p < a->p; p++) {
                const line m = {.a = a, .x = (const float *)a->x[0] + (n * blocks + b) * a->h * a->w * RS_V,
                                .w = (const float *)a->pack[0] + b * a->r * a->s * LANES,
                                .bias = rs_load(a->bias + b * RS_V),
                                .y = (float *)a->y + ((n * blocks + b) * a->p + p) * a->q * RS_V, .p = p};
                if (a->r == 3 && a->s == 3) row(&m, inner, outer, 3, 3, LANES); /* loops of known length unroll */
                else row(&m, inner, outer, a->r, a->s, LANES);
            }
}

void rs_conv2d_dense_depthwise(const rs_args *a) { layer(a, RS_V); }
void rs_conv2d_dense_depthwise_batch(const rs_args *a) { layer(a, 1); }
