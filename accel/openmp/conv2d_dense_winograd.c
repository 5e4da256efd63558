/* Winograd convolution, 3x3 at stride 1: F(M,3) makes M x M outputs of a channel from A*A products (A = M + 2) instead
   of 9*M*M: 36 for 144 with M = 4, 16 for 36 with M = 2.

       V = B' d B      a tile d of A x A inputs, one channel          (once for all filters)
       U = G w G'      the filter                                      (when the plan is made)
       y = A' (sum over c of U * V) A + bias                           element by element, then back

   The sum over channels is A*A small matrix products, in register tiles of KB blocks of output channels x TB tiles.
   Neighbouring tiles overlap by two pixels, so inputs are transformed (A/M)^2 times as often as they are read.

   Weights    [A*A][k / (KB*V)][c][KB][V k]: for each of the A*A points the panels that a register tile streams
   Reads      x nchw<V>c;  pack[0] weights;  pack[1] int64 {KB (2), images in a pass};  bias
   Writes     y nchw<V>c
   Scratch    V [A*A][c / V][tiles][V], then products [A*A][k / V][tiles][V], for the tiles of a pass; behind a point an
              unused vector where their number would be even
   Threads    (channel block, row of tiles); (point, group of blocks); (block, row of tiles)
   Cost       n*k*c * p*q * (A/M)^2 multiply-adds and as many transforms; weights are (A/3)^2 times as many bytes and
              come while the panel before them is multiplied; on small maps at n = 1 the larger of both bounds it
   Source     Lavin, Gray: Fast Algorithms for Convolutional Neural Networks, CVPR 2016 */
#include "rs_groups.h"

enum { MOST = 12, SPAN = 8, AHEAD = 64 * RS_V }; /* tiles: in registers, transformed together; numbers fetched ahead */

typedef struct {
    int64_t tiles, rows, columns, images, c, k; /* of a pass; of an image; channels rounded up to whole blocks */
    int64_t in, out; /* numbers from a point's inputs, its products, to the next one's */
} grid;

/* Numbers of so many vectors, made odd: points at distances of a power of two would take each other's places in the
   first cache. */
RS_INLINE int64_t apart(int64_t vectors) { return (vectors | 1) * RS_V; }

/* One row or column of B' d. */
RS_INLINE void to_points(rs_vec *d, const int M) {
    if (M == 2) {
        const rs_vec sum = d[1] + d[2], difference = d[2] - d[1];
        d[0] = d[0] - d[2], d[3] = d[1] - d[3];
        d[1] = sum, d[2] = difference;
    } else {
        const rs_vec even = d[4] - 4.0f * d[2], odd = d[3] - 4.0f * d[1];
        const rs_vec near = d[4] - d[2], far = 2.0f * (d[3] - d[1]);
        d[0] = 4.0f * d[0] - 5.0f * d[2] + d[4];
        d[5] = 4.0f * d[1] - 5.0f * d[3] + d[5];
        d[1] = even + odd, d[2] = even - odd;
        d[3] = near + far, d[4] = near - far;
    }
}

/* One row or column of A' m: A numbers at distance `step` become M. */
RS_INLINE void from_points(const rs_vec *m, rs_vec *out, const int step, const int M) {
#define P(i) m[(i) * step]
    if (M == 2) {
        const rs_vec plus = P(1) + P(2), minus = P(1) - P(2);
        out[0] = P(0) + plus, out[step] = minus - P(3);
    } else {
        const rs_vec plus = P(1) + P(2), minus = P(1) - P(2), more = P(3) + P(4), less = P(3) - P(4);
        out[0] = P(0) + plus + more;
        out[step] = minus + 2.0f * less;
        out[2 * step] = plus + 4.0f * more;
        out[3 * step] = minus + 8.0f * less + P(5);
    }
#undef P
}

/* V of up to SPAN tiles of a row from tile `first` on, one block of channels. A column of inputs is transformed once
   for both tiles that it lies in. */
RS_INLINE void transform(const rs_args *a, const float *x, float *points, const grid *g, int64_t row, int64_t first,
                         const int M) {
    const int A = M + 2;
    const int64_t count = rs_min(SPAN, g->columns - first), w0 = first * M - a->pd[1];
    const rs_vec outside = {0};
    const float *line[6]; /* rows of x, or one vector of padding over and over */
    int64_t step[6];
    RS_UNROLL for (int i = 0; i < A; i++) {
        const int64_t h = row * M - a->pd[0] + i, inside = h >= 0 && h < a->h;
        line[i] = inside ? x + (h * a->w + w0) * RS_V : (const float *)&outside;
        step[i] = inside ? RS_V : 0;
    }
    rs_vec columns[SPAN * 4 + 2][6];
    for (int64_t j = 0; j < count * M + 2; j++) {
        const int inside = w0 + j >= 0 && w0 + j < a->w;
        rs_vec d[6];
        RS_UNROLL for (int i = 0; i < A; i++) d[i] = inside ? rs_load(line[i] + j * step[i]) : outside;
        to_points(d, M);
        RS_UNROLL for (int i = 0; i < A; i++) columns[j][i] = d[i];
    }
    for (int64_t t = 0; t < count; t++, points += RS_V)
        RS_UNROLL for (int i = 0; i < A; i++) {
            rs_vec d[6];
            RS_UNROLL for (int j = 0; j < A; j++) d[j] = columns[t * M + j][i];
            to_points(d, M);
            RS_UNROLL for (int j = 0; j < A; j++) rs_store(points + (i * A + j) * g->in, d[j]);
        }
}

/* products[b][t0 .. t0+TB][V] = sum over c of U[c][b] * V[c][t] for KB blocks. With NEXT a vector of what `next` points
   to is fetched into the second cache for each c: else products would wait for weights, and weights for products. */
RS_INLINE void multiply(const float *u, const float *v, float *to, const grid *g, int64_t t, const int KB,
                        const int TB, const float *next, const int NEXT) {
    rs_vec acc[2][MOST];
    RS_UNROLL for (int b = 0; b < KB; b++) RS_UNROLL for (int i = 0; i < TB; i++) acc[b][i] = (rs_vec){0};
    const float *x = v + t * RS_V;
    for (int64_t cb = 0; cb < g->c; cb += RS_V, x += g->tiles * RS_V)
        for (int c = 0; c < RS_V; c++, u += KB * RS_V, next += RS_V) {
            rs_vec w[2];
            if (NEXT) __builtin_prefetch(next, 0, 2);
            RS_UNROLL for (int b = 0; b < KB; b++) __builtin_prefetch(u + AHEAD + b * RS_V);
            RS_UNROLL for (int b = 0; b < KB; b++) w[b] = rs_load(u + b * RS_V);
            RS_UNROLL for (int i = 0; i < TB; i++) {
                const rs_vec xv = rs_all(x[i * RS_V + c]);
                RS_UNROLL for (int b = 0; b < KB; b++) acc[b][i] += xv * w[b];
            }
        }
    RS_UNROLL for (int b = 0; b < KB; b++) RS_UNROLL for (int i = 0; i < TB; i++)
        rs_store(to + (b * g->tiles + t + i) * RS_V, acc[b][i]);
}

/* All tiles; the first of them fetch the panel behind this one. */
RS_INLINE void multiply_all(const float *u, const float *v, float *to, const grid *g, const int KB) {
    const int64_t panel = KB * g->c * RS_V;
    const float *next = u + panel;
    int64_t t = 0;
#define TILES(TB)                                                                 \
    for (; rs_fits(g->tiles - t, TB, KB); t += TB, next += g->c * RS_V) {         \
        if (next < u + 2 * panel) multiply(u, v, to, g, t, KB, TB, next, 1);      \
        else multiply(u, v, to, g, t, KB, TB, next, 0);                           \
    }
    TILES(12) TILES(8) TILES(6) TILES(4) TILES(2) TILES(1)
#undef TILES
}
static void multiply_1(const float *u, const float *v, float *to, const grid *g) { multiply_all(u, v, to, g, 1); }
static void multiply_2(const float *u, const float *v, float *to, const grid *g) { multiply_all(u, v, to, g, 2); }

typedef void multiply_fn(const float *, const float *, float *, const grid *);
static multiply_fn *const MULTIPLY[2] = {multiply_1, multiply_2};

/* y of one row of tiles, one block of channels. */
RS_INLINE void finish(const rs_args *a, const float *products, float *y, const grid *g, int64_t row, int64_t first,
                      rs_vec bias, const int M) {
    const int A = M + 2;
    const int64_t activation = a->activation, next = a->q * RS_V, rows = rs_min(M, a->p - row * M);
    float *corner = y + row * M * next;
    for (int64_t column = 0; column < g->columns; column++, corner += M * RS_V) {
        const float *from = products + (first + column) * RS_V;
        rs_vec m[6 * 6];
        RS_UNROLL for (int i = 0; i < A * A; i++) m[i] = rs_load(from + i * g->out);
        RS_UNROLL for (int j = 0; j < A; j++) from_points(m + j, m + j, A, M);
        RS_UNROLL for (int i = 0; i < M; i++) from_points(m + i * A, m + i * A, 1, M);
        const int64_t columns = rs_min(M, a->q - column * M);
        RS_UNROLL for (int i = 0; i < M; i++) RS_UNROLL for (int j = 0; j < M; j++) {
            const rs_vec done = rs_activate(m[i * A + j] + bias, activation);
            if (i < rows && j < columns) rs_store(corner + i * next + j * RS_V, done);
        }
    }
}

RS_INLINE void winograd(const rs_args *a, const int M) {
    const int A = M + 2;
    const int64_t blocks = rs_ceil(a->c, RS_V), outs = rs_ceil(a->k, RS_V);
    const int64_t most = ((const int64_t *)a->pack[1])[0], pass = ((const int64_t *)a->pack[1])[1];
    const int64_t groups = rs_groups(outs, most);
    const float *u = a->pack[0];
    for (int64_t n0 = 0; n0 < a->n; n0 += pass) {
        grid g = {.rows = rs_ceil(a->p, M), .columns = rs_ceil(a->q, M), .images = rs_min(pass, a->n - n0),
                  .c = blocks * RS_V, .k = outs * RS_V};
        g.tiles = g.images * g.rows * g.columns;
        g.in = apart(g.tiles * blocks), g.out = apart(g.tiles * outs);
        float *points = a->scratch, *products = points + A * A * g.in;
#pragma omp for collapse(3) schedule(static)
        for (int64_t n = 0; n < g.images; n++)
            for (int64_t block = 0; block < blocks; block++)
                for (int64_t row = 0; row < g.rows; row++) {
                    const float *x = (const float *)a->x[0] + ((n0 + n) * blocks + block) * a->h * a->w * RS_V;
                    float *to = points + (block * g.tiles + (n * g.rows + row) * g.columns) * RS_V;
                    for (int64_t first = 0; first < g.columns; first += SPAN)
                        transform(a, x, to + first * RS_V, &g, row, first, M);
                }
#pragma omp for collapse(2) schedule(static)
        for (int64_t point = 0; point < A * A; point++)
            for (int64_t group = 0; group < groups; group++) {
                const rs_group part = rs_group_of(group, outs, most);
                const float *panel = u + (point * outs + part.first) * g.c * RS_V;
                float *to = products + point * g.out + part.first * g.tiles * RS_V;
                MULTIPLY[part.size - 1](panel, points + point * g.in, to, &g);
            }
#pragma omp for collapse(3) schedule(static)
        for (int64_t n = 0; n < g.images; n++)
            for (int64_t block = 0; block < outs; block++)
                for (int64_t row = 0; row < g.rows; row++) {
                    float *y = (float *)a->y + ((n0 + n) * outs + block) * a->p * a->q * RS_V;
                    finish(a, products + block * g.tiles * RS_V, y, &g, row, (n * g.rows + row) * g.columns,
                           rs_load(a->bias + block * RS_V), M);
                }
    }
}

void rs_conv2d_dense_winograd2(const rs_args *a) { winograd(a, 2); }
void rs_conv2d_dense_winograd4(const rs_args *a) { winograd(a, 4); }
