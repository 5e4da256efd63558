/* Integer Winograd convolution, 3x3 at stride 1: F(4,3) with exact sums, so the same bits as the plain loop's.

       V = B' d B      a tile d of 6x6 inputs, one channel             (once for all filters)
       U = H w H'      the filter, H whole numbers                      (when the plan is made)
       D * Y * D = E (sum over c of U * V) E'                           element by element, then back; D = 24, 12, 6, 6
       y   = rs_int8.h's rule of Y + constant

   Why it is exact. B' and H = [6 0 0; -1 -1 -1; -1 1 -1; 1 2 4; 1 -2 4; 0 0 6] hold whole numbers, so small that V and
   U fit 16 bits: 10*10*255 and 7*7*127 at most. Sums are taken modulo 2^32, which leaves D*Y*D modulo 2^32: Y times 9
   and a power of two, 2^6 at most. Times the inverse of 9 and shifted down it is Y modulo 2^26 or more, and Y is
   between -2^25 and 2^25: where the weights of a filter allow more, its channels are summed in parts that do not.
   The rows of B' but one add up to 0, so zero_point is taken off at one point alone, as 36 * zero_point.

   An instruction takes four products a lane in conv2d_int8_blocked.c, two here; but 36 stand for 144. That is half of
   the instructions, for 8 times the bytes of weights: it needs maps of many tiles.

   Weights    [k / (2*V)][6*6][c / 2][KB][V k][2 c] int16, KB = 2 or, behind the last pair of blocks, 1
   Reads      x int8 nchw<V>c;  pack[0] weights;  pack[1] int64 {2, zero_point, images in a pass, channels in a part};
              pack[2..4] constant, requant, unit
   Writes     y nchw<V>c, int8 or float32
   Scratch    V [tiles][c / V][6*6][V] int16 of a pass
   Threads    (image, row of tiles, channel block); (group of blocks, up to 8 tiles)
   Cost       n*k*c * p*q * 36/16 multiply-adds, 2*V an instruction with VNNI
   Source     Lavin, Gray: Fast Algorithms for Convolutional Neural Networks, CVPR 2016 */
#include "rs_groups.h"
#include "rs_int8.h"

enum { POINTS = 36, MOST = 8, AHEAD = 32 * 64 }; /* tiles in registers; bytes to fetch weights ahead */

typedef struct {
    int64_t tiles, rows, columns, images, c, part; /* of a pass; of an image; channels in whole blocks, in a part */
    int16_t zero;
} grid;

/* One row or column of B' d: 6 numbers at distance `step`. */
RS_INLINE void to_points(rs_shorts *d, const int step) {
#define D(i) d[(i) * step]
    const rs_shorts near = D(4) - D(2), far = (D(3) - D(1)) * 2, even = D(4) - D(2) * 4, odd = D(3) - D(1) * 4;
    D(0) = near + (D(0) - D(2)) * 4;
    D(5) = D(5) - D(3) - far * 2;
    D(1) = even + odd, D(2) = even - odd;
    D(3) = near + far, D(4) = near - far;
#undef D
}

/* One row or column of E m: 6 numbers at distance `step` become 24, 12, 6 and 6 times the sums. */
RS_INLINE void from_points(rs_uvec *m, const int step) {
#define P(i) m[(i) * step]
    const rs_uvec plus = P(1) + P(2), minus = P(1) - P(2), more = P(3) + P(4), less = P(3) - P(4);
    P(0) = P(0) + plus * 4 + more;
    P(1) = minus * 2 + less;
    P(2) = plus + more;
    P(3) = minus + less * 2 + P(5);
#undef P
}

/* V of up to 8 tiles of a row from tile `first` on, one block of channels. A column of inputs is transformed once for
   both tiles that it lies in. */
RS_INLINE void transform(const rs_args *a, const int8_t *x, int16_t *points, const grid *g, int64_t row,
                         int64_t first) {
    const int64_t count = rs_min(MOST, g->columns - first), w0 = first * 4 - a->pd[1];
    const rs_bytes outside = (rs_bytes){0} + (int8_t)g->zero;
    const int8_t *line[6]; /* rows of x, or one vector of padding over and over */
    int64_t step[6];
    RS_UNROLL for (int i = 0; i < 6; i++) {
        const int64_t h = row * 4 - a->pd[0] + i, inside = h >= 0 && h < a->h;
        line[i] = inside ? x + (h * a->w + w0) * RS_V : (const int8_t *)&outside;
        step[i] = inside ? RS_V : 0;
    }
    rs_shorts columns[MOST * 4 + 2][6];
    for (int64_t j = 0; j < count * 4 + 2; j++) {
        const int inside = w0 + j >= 0 && w0 + j < a->w;
        RS_UNROLL for (int i = 0; i < 6; i++)
            columns[j][i] = rs_shorts_at(inside ? line[i] + j * step[i] : (const int8_t *)&outside);
        to_points(columns[j], 1);
    }
    for (int64_t t = 0; t < count; t++, points += POINTS * g->c)
        RS_UNROLL for (int i = 0; i < 6; i++) {
            rs_shorts d[6];
            RS_UNROLL for (int j = 0; j < 6; j++) d[j] = columns[t * 4 + j][i];
            to_points(d, 1);
            if (i == 1) d[1] -= (rs_shorts){0} + (int16_t)(36 * g->zero);
            RS_UNROLL for (int j = 0; j < 6; j++) memcpy(points + (i * 6 + j) * RS_V, &d[j], sizeof d[j]);
        }
}

/* products[b][t] = sum over c of U[c][b] * V[t][c] at one point, for KB blocks and TB tiles. */
RS_INLINE void multiply(const int16_t *u, const int16_t *v, rs_uvec *products, const grid *g, int64_t channels,
                        const int KB, const int TB) {
    rs_ivec acc[2][MOST];
    RS_UNROLL for (int b = 0; b < KB; b++) RS_UNROLL for (int t = 0; t < TB; t++) acc[b][t] = (rs_ivec){0};
    const int64_t tile = POINTS * g->c;
    for (int64_t c = 0; c < channels; c += RS_V, v += POINTS * RS_V)
        for (int pair = 0; pair < RS_V; pair += 2, u += KB * RS_V * 2) {
            RS_UNROLL for (int b = 0; b < KB; b++) __builtin_prefetch((const char *)(u + b * RS_V * 2) + AHEAD);
            RS_UNROLL for (int t = 0; t < TB; t++) RS_UNROLL for (int b = 0; b < KB; b++)
                acc[b][t] = rs_dot2(acc[b][t], v + t * tile + pair, u + b * RS_V * 2);
        }
    RS_UNROLL for (int b = 0; b < KB; b++) RS_UNROLL for (int t = 0; t < TB; t++)
        products[b * TB + t] = (rs_uvec)acc[b][t];
}

/* Adds to the 16 sums of a tile what is left of its products; rows lie 6 * step apart, their 4 numbers step. */
RS_INLINE void collect(const rs_uvec *products, rs_ivec *sums, const int step) {
    static const int TWOS[4] = {3, 2, 1, 1}; /* in 24, 12, 6, 6 */
    RS_UNROLL for (int j = 0; j < 4; j++) {
        rs_uvec m[6];
        RS_UNROLL for (int i = 0; i < 6; i++) m[i] = products[(i * 6 + j) * step];
        from_points(m, 1);
        RS_UNROLL for (int i = 0; i < 4; i++)
            sums[i * 4 + j] += (rs_ivec)(m[i] * 0x38e38e39u) >> (TWOS[i] + TWOS[j]); /* 9 * 0x38e38e39 = 1 */
    }
}

typedef struct {
    const rs_args *a;
    const rs_finish *f;
    const grid *g;
    const int16_t *u, *v; /* of this group of blocks; of the first tile */
    int64_t n, k, tile;   /* first image of the pass; first block; the first tile in the pass */
} piece;

/* y of one tile, one block. */
RS_INLINE void finish(const piece *m, const rs_rule *rule, const rs_ivec *sums, int64_t k, int64_t tile) {
    const rs_args *a = m->a;
    const grid *g = m->g;
    const int64_t n = tile / (g->rows * g->columns), p = tile / g->columns % g->rows * 4, q = tile % g->columns * 4;
    const int64_t at = (((m->n + n) * rs_ceil(a->k, RS_V) + k) * a->p + p) * a->q + q;
    for (int64_t i = 0; i < rs_min(4, a->p - p); i++)
        if (q + 4 <= a->q) rs_finish_block(a, rule, sums + i * 4, 4, (at + i * a->q) * RS_V);
        else
            for (int64_t j = 0; j < a->q - q; j++)
                rs_finish_block(a, rule, sums + i * 4 + j, 1, (at + i * a->q + j) * RS_V);
}

RS_INLINE void whole(const piece *m, const int KB, const int TB) {
    const grid *g = m->g;
    rs_ivec sums[2 * MOST][16];
    rs_uvec products[POINTS * 2 * MOST];
    RS_UNROLL for (int b = 0; b < KB; b++) {
        const rs_ivec constant = *(const rs_ivec_any *)(m->f->constant + (m->k + b) * RS_V);
        for (int t = 0; t < TB; t++) RS_UNROLL for (int i = 0; i < 16; i++) sums[b * TB + t][i] = constant;
    }
    for (int64_t c = 0; c < g->c; c += g->part) {
        const int64_t channels = rs_min(g->part, g->c - c);
        const int16_t *v = m->v + c * POINTS;
        for (int i = 0; i < 6; i++) {
            rs_uvec *row = products + i * 6 * KB * TB;
            for (int j = 0; j < 6; j++)
                multiply(m->u + ((i * 6 + j) * g->c + c) * KB * RS_V, v + (i * 6 + j) * RS_V, row + j * KB * TB, g,
                         channels, KB, TB);
            for (int each = 0; each < KB * TB; each++) from_points(row + each, KB * TB);
        }
        for (int each = 0; each < KB * TB; each++) collect(products + each, sums[each], KB * TB);
    }
    RS_UNROLL for (int b = 0; b < KB; b++) {
        const rs_rule rule = rs_rule_of(m->a, m->f, (m->k + b) * RS_V);
        for (int t = 0; t < TB; t++) finish(m, &rule, sums[b * TB + t], m->k + b, m->tile + t);
    }
}

#define WHOLE(KB, TB) \
    static void whole_##KB##_##TB(const piece *m) { whole(m, KB, TB); }
WHOLE(1, 1) WHOLE(1, 2) WHOLE(1, 4) WHOLE(1, 8) WHOLE(2, 1) WHOLE(2, 2) WHOLE(2, 4) WHOLE(2, 8)

/* Up to 8 tiles: the widest register tiles that fit. */
static void tiles(piece m, int64_t count, int64_t size) {
    typedef void whole_fn(const piece *);
    static whole_fn *const WHOLES[2][4] = {{whole_1_1, whole_1_2, whole_1_4, whole_1_8},
                                           {whole_2_1, whole_2_2, whole_2_4, whole_2_8}};
    for (int width = 3; width >= 0; width--)
        for (; count >= 1 << width; count -= 1 << width, m.tile += 1 << width, m.v += POINTS * m.g->c << width)
            WHOLES[size - 1][width](&m);
}

void rs_conv2d_int8_winograd(const rs_args *a) {
    const int64_t blocks = rs_ceil(a->c, RS_V), outs = rs_ceil(a->k, RS_V), groups = rs_groups(outs, 2);
    const int64_t *sizes = a->pack[1], pass = sizes[2];
    const rs_finish f = rs_finish_of(a, 2, outs * RS_V);
    int16_t *points = a->scratch;
    for (int64_t n0 = 0; n0 < a->n; n0 += pass) {
        grid g = {.rows = rs_ceil(a->p, 4), .columns = rs_ceil(a->q, 4), .images = rs_min(pass, a->n - n0),
                  .c = blocks * RS_V, .part = sizes[3], .zero = (int16_t)sizes[1]};
        g.tiles = g.images * g.rows * g.columns;
#pragma omp for collapse(3) schedule(static)
        for (int64_t n = 0; n < g.images; n++)
            for (int64_t row = 0; row < g.rows; row++)
                for (int64_t block = 0; block < blocks; block++) {
                    const int8_t *x = (const int8_t *)a->x[0] + ((n0 + n) * blocks + block) * a->h * a->w * RS_V;
                    int16_t *to = points + ((n * g.rows + row) * g.columns * g.c + block * RS_V) * POINTS;
                    for (int64_t first = 0; first < g.columns; first += MOST)
                        transform(a, x, to + first * POINTS * g.c, &g, row, first);
                }
#pragma omp for collapse(2) schedule(static)
        for (int64_t group = 0; group < groups; group++)
            for (int64_t tile = 0; tile < g.tiles; tile += MOST) {
                const rs_group part = rs_group_of(group, outs, 2);
                const piece m = {.a = a, .f = &f, .g = &g, .n = n0, .k = part.first, .tile = tile,
                                 .u = (const int16_t *)a->pack[0] + part.first * RS_V * POINTS * g.c,
                                 .v = points + tile * POINTS * g.c};
                tiles(m, rs_min(MOST, g.tiles - tile), part.size);
            }
    }
}
