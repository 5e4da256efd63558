/* Direct convolution on blocked channels, a register tile at a time.

       y[n,k,p,q] = activation(bias[k] + sum over c,r,s of  xpad[n, c, p*st + r*dl, q*st + s*dl] * w[k,c,r,s])

   A tile is KB blocks of RS_V output channels x PX neighbouring pixels, all held in registers. For one (c, r, s) it
   loads KB weight vectors, broadcasts PX inputs and does KB*PX fused multiply-adds:

                 pixel 0   pixel 1  ..            24 accumulators (12 before AVX-512): enough independent sums to
       k  0..15   acc00     acc01                 hide the latency of a multiply-add, few enough to stay in registers
       k 16..31   acc10     acc11

   Before it is included, three names say how weights are stored: rs_stored, RS_STORED (how many of them make one vector
   of RS_V weights) and rs_weights(w, table), which makes that vector.

   Weights    [k / (KB*V)][c / VIN][r][s][VIN c][KB][V k]   so a tile reads them as one stream.
              VIN is V, or 1 where x is plain nchw (the first layer: 3 channels would leave 13 of 16 lanes idle).
              KB is pack[1]; a last group narrower than KB has 2 or 1 blocks.
   Reads      x nchw<V>c (x_block = V) or nchw (x_block = 1);  pack[0] weights;  pack[1] int64 {KB};
              pack[2] table (RS_V,) where weights are codes;  bias
   Writes     y nchw<V>c
   Scratch    one image with padded rows (ceil(c/VIN), h, left+w+right, VIN) where there is padding at the sides
   Threads    (group of blocks, output row) in that order, so a thread's weights stay in its cache
   Cost       n*k*p*q * c*r*s multiply-adds less the rows of taps that fall wholly into padding */
#ifndef RS_BLOCKED_H
#define RS_BLOCKED_H

#include "rs_groups.h"

typedef struct {
    const float *x, *bias; /* of this image, this group of blocks */
    const rs_stored *w;    /* of this group; behind them lie the next one's */
    rs_vec table;
    float *y;
    int64_t blocks, h, w_, p, q; /* ceil(c/VIN); the plane of x, padded left and right; the plane of y */
    int64_t top, r, s, st, dh, dw, activation, tiles; /* of this group, before this row */
} image;

/* The tile'th of a group of blocks. The first KB of them fetch the next group's weights into the second cache, one
   vector with each of their own: else products would wait for weights, and weights for products. */
RS_INLINE void tile(const image *m, int64_t tile, int64_t p, int64_t q, const int KB, const int PX, const int ST,
                    const int VIN) {
    rs_vec acc[4][12];
    RS_UNROLL for (int b = 0; b < KB; b++) RS_UNROLL for (int i = 0; i < PX; i++)
        acc[b][i] = rs_load(m->bias + b * RS_V);
    const rs_stored *w = m->w;
    const int64_t own = m->blocks * m->r * m->s * VIN * RS_STORED, step = tile < KB ? RS_STORED : 0;
    const rs_stored *next = tile < KB ? w + (KB + tile) * own : w;
    const rs_vec table = m->table;
    for (int64_t cb = 0; cb < m->blocks; cb++)
        for (int64_t r = 0; r < m->r; r++) {
            const int64_t h = p * m->st + r * m->dh - m->top;
            if (h < 0 || h >= m->h) { /* a row of padding */
                w += m->s * VIN * KB * RS_STORED, next += m->s * VIN * step;
                continue;
            }
            const float *x = m->x + ((cb * m->h + h) * m->w_ + q * ST) * VIN;
            for (int64_t s = 0; s < m->s; s++, x += m->dw * VIN)
                for (int c = 0; c < VIN; c++, w += KB * RS_STORED, next += step) {
                    if (KB > 1) __builtin_prefetch(next, 0, 2);
                    rs_vec wv[4];
                    RS_UNROLL for (int b = 0; b < KB; b++) wv[b] = rs_weights(w + b * RS_STORED, table);
                    RS_UNROLL for (int i = 0; i < PX; i++) {
                        const rs_vec xv = rs_all(x[c + i * ST * VIN]);
                        RS_UNROLL for (int b = 0; b < KB; b++) acc[b][i] += xv * wv[b];
                    }
                }
        }
    const int64_t activation = m->activation, plane = m->p * m->q * RS_V; /* else loaded again after each store */
    float *y = m->y + (p * m->q + q) * RS_V;
    RS_UNROLL for (int b = 0; b < KB; b++) RS_UNROLL for (int i = 0; i < PX; i++)
        rs_store(y + b * plane + i * RS_V, rs_activate(acc[b][i], activation));
}

/* Pixels q0 .. q1 of output row p: the widest tiles that fit, then narrower ones. */
RS_INLINE void row(const image *m, int64_t p, int64_t q0, int64_t q1, const int KB, const int ST, const int VIN) {
    int64_t done = m->tiles;
#define TILES(PX) \
    for (; rs_fits(q1 - q0, PX, KB); q0 += PX) tile(m, done++, p, q0, KB, PX, ST, VIN);
    TILES(12) TILES(8) TILES(6) TILES(4) TILES(2) TILES(1)
}

#define ROW(KB, ST, VIN) \
    static void row_##KB##_##ST##_##VIN(const image *m, int64_t p, int64_t q0, int64_t q1) { \
        row(m, p, q0, q1, KB, ST, VIN);                                               \
    }
#define BLOCKED RS_V
ROW(1, 1, 1) ROW(2, 1, 1) ROW(4, 1, 1) ROW(1, 2, 1) ROW(2, 2, 1) ROW(4, 2, 1)
ROW(1, 1, BLOCKED) ROW(2, 1, BLOCKED) ROW(4, 1, BLOCKED) ROW(1, 2, BLOCKED) ROW(2, 2, BLOCKED) ROW(4, 2, BLOCKED)

typedef void row_fn(const image *, int64_t, int64_t, int64_t);
static row_fn *const ROWS[2][2][3] = {
    /* [x is blocked][stride 2][KB = 1, 2, 4] */
    {{row_1_1_1, row_2_1_1, row_4_1_1}, {row_1_2_1, row_2_2_1, row_4_2_1}},
    {{row_1_1_BLOCKED, row_2_1_BLOCKED, row_4_1_BLOCKED}, {row_1_2_BLOCKED, row_2_2_BLOCKED, row_4_2_BLOCKED}},
};

/* The whole layer; conv2d_dense_blocked.c and conv2d_ternary_blocked.c call it. */
RS_INLINE void rs_blocked(const rs_args *a, rs_vec table) {
    const int64_t vin = a->x_block, blocks = rs_ceil(a->c, vin), outs = rs_ceil(a->k, RS_V);
    const int64_t most = *(const int64_t *)a->pack[1], groups = rs_groups(outs, most);
    const int64_t padded = a->pd[1] || a->pd[3];
    const int64_t flat = a->r * a->s == 1 && a->st[0] == 1 && a->st[1] == 1 && !rs_padded(a);
    /* 1x1 at stride 1 knows no rows: the plane is one line, cut into pieces that threads can share */
    const int64_t h = flat ? 1 : a->h, w = flat ? a->h * a->w : a->w + a->pd[1] + a->pd[3];
    const int64_t p = flat ? 1 : a->p, q = flat ? a->p * a->q : a->q, piece = flat ? 48 : q;
    const int64_t pieces = rs_ceil(q, piece), pass = padded ? 1 : a->n; /* images between two barriers */
    const int64_t in = blocks * a->h * a->w * vin, out = outs * a->p * a->q * RS_V;
    const int64_t few = pass * p * q * most <= RS_ACC; /* one tile a group: it waits for weights anyhow */
    for (int64_t n0 = 0; n0 < a->n; n0 += pass) {
        const float *x = (const float *)a->x[0] + n0 * in;
        if (padded) {
            rs_pad_rows(a, x, a->scratch, blocks, vin);
            x = a->scratch;
        }
#pragma omp for collapse(4) schedule(static)
        for (int64_t group = 0; group < groups; group++)
            for (int64_t n = 0; n < pass; n++)
                for (int64_t i = 0; i < p; i++)
                    for (int64_t j = 0; j < pieces; j++) {
                        const rs_group g = rs_group_of(group, outs, most);
                        const image m = {
                            .x = x + n * in, .table = table,
                            .w = (const rs_stored *)a->pack[0] + g.first * blocks * a->r * a->s * vin * RS_STORED,
                            .bias = a->bias + g.first * RS_V,
                            .y = (float *)a->y + (n0 + n) * out + g.first * p * q * RS_V,
                            .blocks = blocks, .h = h, .w_ = w, .top = a->pd[0], .p = p, .q = q, .r = a->r, .s = a->s,
                            .st = a->st[0], .dh = a->dl[0], .dw = a->dl[1], .activation = a->activation,
                            .tiles = few ? g.size : (n * p + i) * pieces + j};
                        ROWS[vin > 1][a->st[1] == 2][g.size / 2](&m, i, j * piece, rs_min(q, (j + 1) * piece));
                    }
    }
}

#endif
