/* Depthwise convolution on blocked channels: every channel has a filter of its own, so a vector of RS_V channels
   meets a vector of RS_V weights and nothing is broadcast. Images side by side share a weight: LANES is 1 then.

       y[n,c,p,q] = activation(bias[c] + sum over r,s of  x[n, c, p*st + r*dl - top, q*st + s*dl - left] * w[c,r,s])

   where a tap that falls outside the image contributes nothing. Rows of them are skipped. 3x3 with a border of one
   pixel or none goes by tiles that know whether they lie at a side, and loads each pixel once for all outputs of a row
   that it reaches; with other windows pixels near the sides are computed one by one, with the taps s0 .. s1 - 1 that
   they have.

   Weights    [c / V][r][s][V c], or [c][r][s] where images lie side by side
   Reads      x nchw<V>c or nchw<V>n;  pack[0] weights;  bias (c rounded up to V), or of each c V times
   Writes     y, layout of x
   Threads    (image, block of channels, share of its rows): shares where planes alone do not share out evenly
   Cost       n*c*p*q * r*s multiply-adds less those in padding. 3x3: 24 of 8 outputs' take 10 loads at stride 1, 17 at
              stride 2, so products bound it where planes are in the second cache */
#include "rs.h"

/* A plane of one block of channels: its pixels, its filter, its outputs. */
typedef struct {
    const rs_args *a;
    const float *x, *w;
    float *y;
    rs_vec bias;
} plane;

enum { MOST = RS_V == 16 ? 8 : 4 }; /* outputs of a 3x3 tile: with their pixels and taps they fill the registers */

RS_INLINE rs_vec tap_of(const float *w, const int LANES) { return LANES == 1 ? rs_all(*w) : rs_load(w); }

RS_INLINE void put(float *y, rs_vec *acc, int64_t activation, const int PX) {
    RS_UNROLL for (int i = 0; i < PX; i++) acc[i] = rs_activate(acc[i], activation);
    RS_UNROLL for (int i = 0; i < PX; i++) rs_store(y + i * RS_V, acc[i]);
}

/* PX neighbouring outputs of 3x3. LEFT and RIGHT: the first tap of the first, the last one of the last lie outside. */
RS_INLINE void tile3(const plane *m, int64_t p, int64_t q, const int LANES, const int ST, const int PX, const int LEFT,
                     const int RIGHT) {
    const rs_args *a = m->a;
    rs_vec acc[MOST];
    RS_UNROLL for (int i = 0; i < PX; i++) acc[i] = m->bias;
    for (int64_t r = 0; r < 3; r++) {
        const int64_t h = p * a->st[0] + r - a->pd[0];
        if (h < 0 || h >= a->h) continue;
        const float *x = m->x + (h * a->w + q * ST - a->pd[1]) * RS_V;
        rs_vec tap[3];
        RS_UNROLL for (int s = 0; s < 3; s++) {
            tap[s] = tap_of(m->w + (r * 3 + s) * LANES, LANES);
            RS_KEEP(tap[s]);
        }
        RS_UNROLL for (int j = LEFT; j < (PX - 1) * ST + 3 - RIGHT; j++) {
            rs_vec pixel = rs_load(x + j * RS_V);
            RS_KEEP(pixel);
            RS_UNROLL for (int s = 0; s < 3; s++) {
                const int i = (j - s) / ST; /* the output whose tap s it is */
                if (j >= s && (j - s) % ST == 0 && i < PX) acc[i] += tap[s] * pixel;
            }
        }
    }
    put(m->y + (p * a->q + q) * RS_V, acc, a->activation, PX);
}

RS_INLINE void row3(const plane *m, int64_t p, const int LANES, const int ST) {
    const rs_args *a = m->a;
    int64_t q = 0;
#define TILES(PX)                                                                             \
    for (; q + PX <= a->q; q += PX) {                                                         \
        const int left = q == 0 && a->pd[1], right = (q + PX - 1) * ST + 3 - a->pd[1] > a->w; \
        if (left && right) tile3(m, p, q, LANES, ST, PX, 1, 1);                               \
        else if (left) tile3(m, p, q, LANES, ST, PX, 1, 0);                                   \
        else if (right) tile3(m, p, q, LANES, ST, PX, 0, 1);                                  \
        else tile3(m, p, q, LANES, ST, PX, 0, 0);                                             \
    }
    if (MOST == 8) { TILES(8) }
    TILES(4) TILES(2) TILES(1)
}

/* PX neighbouring pixels with taps s0 .. s1 - 1 of each row. */
RS_INLINE void tile(const plane *m, int64_t p, int64_t q, int64_t s0, int64_t s1, const int LANES, const int PX) {
    const rs_args *a = m->a;
    const int64_t st = a->st[1] * RS_V, dl = a->dl[1] * RS_V;
    rs_vec acc[8];
    RS_UNROLL for (int i = 0; i < PX; i++) acc[i] = m->bias;
    for (int64_t r = 0; r < a->r; r++) {
        const int64_t h = p * a->st[0] + r * a->dl[0] - a->pd[0];
        if (h < 0 || h >= a->h) continue;
        const float *x = m->x + (h * a->w - a->pd[1]) * RS_V + q * st + s0 * dl, *w = m->w + (r * a->s + s0) * LANES;
        for (int64_t s = s0; s < s1; s++, x += dl, w += LANES) {
            const rs_vec tap = tap_of(w, LANES);
            RS_UNROLL for (int i = 0; i < PX; i++) acc[i] += tap * rs_load(x + i * st);
        }
    }
    put(m->y + (p * a->q + q) * RS_V, acc, a->activation, PX);
}

/* A pixel some of whose taps may lie left or right of the image. */
RS_INLINE void edge(const plane *m, int64_t p, int64_t q, const int LANES) {
    const rs_args *a = m->a;
    const int64_t from = q * a->st[1] - a->pd[1];
    int64_t s0 = 0, s1 = a->s;
    while (s0 < s1 && from + s0 * a->dl[1] < 0) s0++;
    while (s1 > s0 && from + (s1 - 1) * a->dl[1] >= a->w) s1--;
    tile(m, p, q, s0, s1, LANES, 1);
}

/* A whole row; the taps of pixels inner .. outer - 1 all lie inside the image. */
RS_INLINE void row(const plane *m, int64_t p, const int LANES) {
    const rs_args *a = m->a;
    const int64_t inner = rs_min(rs_ceil(a->pd[1], a->st[1]), a->q), room = a->w + a->pd[1] - (a->s - 1) * a->dl[1];
    const int64_t outer = room > 0 ? rs_max(inner, rs_min(rs_ceil(room, a->st[1]), a->q)) : inner;
    int64_t q = 0;
    for (; q < inner; q++) edge(m, p, q, LANES);
    for (; q + 8 <= outer; q += 8) tile(m, p, q, 0, a->s, LANES, 8);
    for (; q + 4 <= outer; q += 4) tile(m, p, q, 0, a->s, LANES, 4);
    for (; q + 2 <= outer; q += 2) tile(m, p, q, 0, a->s, LANES, 2);
    for (; q < a->q; q++) edge(m, p, q, LANES);
}

RS_INLINE void layer(const rs_args *a, const int LANES) {
    const int64_t blocks = rs_ceil(a->c, RS_V), shares = rs_shares(a->n * blocks), each = rs_ceil(a->p, shares);
    const int three = a->r == 3 && a->s == 3 && a->dl[0] == 1 && a->dl[1] == 1 && a->pd[1] <= 1 && a->pd[3] <= 1;
    const int64_t st = three ? a->st[1] : 0;
#pragma omp for collapse(3) schedule(static)
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t share = 0; share < shares; share++) {
                const int64_t at = n * blocks + b, begin = share * each, end = rs_min(a->p, begin + each);
                const plane m = {.a = a, .x = (const float *)a->x[0] + at * a->h * a->w * RS_V,
                                 .w = (const float *)a->pack[0] + b * a->r * a->s * LANES,
                                 .bias = rs_load(a->bias + b * RS_V),
                                 .y = (float *)a->y + at * a->p * a->q * RS_V};
                for (int64_t p = begin; p < end; p++) {
                    if (st == 1) row3(&m, p, LANES, 1);
                    else if (st == 2) row3(&m, p, LANES, 2);
                    else row(&m, p, LANES);
                }
            }
}

void rs_conv2d_dense_depthwise(const rs_args *a) { layer(a, RS_V); }
void rs_conv2d_dense_depthwise_batch(const rs_args *a) { layer(a, 1); }
