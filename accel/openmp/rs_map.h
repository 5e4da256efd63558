/* 3x3 convolution on small maps, a whole output map in registers: 4x4 or 2x2 pixels, where weights are most of what
   is read and padding is most of what a larger tile would multiply.

       y[n,k,p,q] = activation(bias[k] + sum over c,r,s of  x[n, c, p*st + r - 1, q*st + s - 1] * w[k,c,r,s])

   Which taps fall outside is known when compiling: a 4x4 map needs 100 of its 144 products, a 2x2 map 16 of 36.
   KB blocks of output channels x P*P pixels are held in registers, 1 x 16 or 4 x 4.

   rs_stored, RS_STORED and rs_weights are those of rs_blocked.h.

   Weights    [k / (KB*V)][c / V][3][3][V c][KB][V k], groups narrower than KB at the end: read once, in order
   Reads      x nchw<V>c;  pack[0] weights;  pack[1] int64 {KB};  bias
   Writes     y nchw<V>c
   Threads    one group of blocks at a time, for all images
   Cost       n*k*c * (100 or 16) multiply-adds; at n = 1 the weights' bandwidth bounds it */
#ifndef RS_MAP_H
#define RS_MAP_H

#include "rs_groups.h"

typedef struct {
    const float *x, *bias;
    const rs_stored *w;
    rs_vec table;
    float *y;
    int64_t blocks, activation;
} map;

enum { AHEAD = 64 * RS_STORED }; /* 64 vectors: far enough to hide the way from memory, near enough to be kept in L1 */

RS_INLINE void whole(const map *m, const int KB, const int P, const int ST) {
    const int H = P * ST;
    rs_vec acc[4][16];
    RS_UNROLL for (int b = 0; b < KB; b++) RS_UNROLL for (int i = 0; i < P * P; i++)
        acc[b][i] = rs_load(m->bias + b * RS_V);
    const float *x = m->x;
    const rs_stored *w = m->w;
    const rs_vec table = m->table;
    for (int64_t cb = 0; cb < m->blocks; cb++, x += H * H * RS_V) {
#pragma GCC unroll 9
        for (int tap = 0; tap < 9; tap++) {
            const int r = tap / 3, s = tap % 3;
            for (int c = 0; c < RS_V; c++, w += KB * RS_STORED) {
                RS_UNROLL for (int b = 0; b < KB; b++) __builtin_prefetch(w + AHEAD + b * RS_STORED);
                rs_vec wv[4];
                RS_UNROLL for (int b = 0; b < KB; b++) wv[b] = rs_weights(w + b * RS_STORED, table);
                RS_UNROLL for (int p = 0; p < P; p++) RS_UNROLL for (int q = 0; q < P; q++) {
                    const int h = p * ST + r - 1, v = q * ST + s - 1;
                    if (h < 0 || h >= H || v < 0 || v >= H) continue;
                    const rs_vec xv = rs_all(x[(h * H + v) * RS_V + c]);
                    RS_UNROLL for (int b = 0; b < KB; b++) acc[b][p * P + q] += xv * wv[b];
                }
            }
        }
    }
    RS_UNROLL for (int b = 0; b < KB; b++) RS_UNROLL for (int i = 0; i < P * P; i++)
        rs_store(m->y + (b * P * P + i) * RS_V, rs_activate(acc[b][i], m->activation));
}

#define MAP(KB, P, ST) static void map_##KB##_##P##_##ST(const map *m) { whole(m, KB, P, ST); }
MAP(1, 4, 1) MAP(1, 4, 2) MAP(1, 2, 1) MAP(2, 2, 1) MAP(4, 2, 1) MAP(1, 2, 2) MAP(2, 2, 2) MAP(4, 2, 2)

typedef void map_fn(const map *);
static map_fn *const MAPS[2][2][3] = {
    /* [4x4 map][stride 2][KB = 1, 2, 4] */
    {{map_1_2_1, map_2_2_1, map_4_2_1}, {map_1_2_2, map_2_2_2, map_4_2_2}},
    {{map_1_4_1, 0, 0}, {map_1_4_2, 0, 0}},
};

/* The whole layer. */
RS_INLINE void rs_map(const rs_args *a, rs_vec table) {
    const int64_t blocks = rs_ceil(a->c, RS_V), outs = rs_ceil(a->k, RS_V), most = *(const int64_t *)a->pack[1];
    const int64_t groups = rs_groups(outs, most), pixels = a->p * a->q;
#pragma omp for schedule(static)
    for (int64_t group = 0; group < groups; group++) {
        const rs_group g = rs_group_of(group, outs, most);
        for (int64_t n = 0; n < a->n; n++) {
            const map m = {.x = (const float *)a->x[0] + n * blocks * a->h * a->w * RS_V,
                           .w = (const rs_stored *)a->pack[0] + g.first * blocks * 9 * RS_V * RS_STORED, .table = table,
                           .bias = a->bias + g.first * RS_V,
                           .y = (float *)a->y + (n * outs + g.first) * pixels * RS_V, .blocks = blocks,
                           .activation = a->activation};
            MAPS[a->p == 4][a->st[0] == 2][g.size / 2](&m);
        }
    }
}

#endif
