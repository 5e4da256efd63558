/* Integer convolution on blocked channels: the register tile of conv2d_dense_blocked.c with four products a lane.

       acc = sum over c,r,s of  values[k,c,r,s] * (xpad[n, c, p*st + r*dl, q*st + s*dl] - zero_point) + bias
       y   = rs_int8.h's rule

   The instruction multiplies unsigned by signed bytes, so the padded copy of the image holds x + 128, and padding
   zero_point + 128: what that adds, (zero_point + 128) * sum of values[k], is the same for every pixel and is taken off
   by the constant that a sum starts from. That is why taps in padding are not skipped here.

   Weights    [k / (KB*V)][c / CB][r][s][CB / 4][KB][V k][4 c] int8, CB = V, or 4 where x is plain nchw (few channels)
   Reads      x int8, nchw<V>c (x_block = V) or nchw (x_block = 1);  pack[0] weights;  pack[1] int64 {KB, zero_point};
              pack[2..4] constant, requant, unit
   Writes     y nchw<V>c, int8 or float32
   Scratch    one padded image (ceil(c/CB), h+pd, w+pd, CB) bytes
   Threads    (group of blocks, output row) in that order
   Cost       n*k*p*q * c*r*s multiply-adds, 4*V an instruction with VNNI */
#include "rs_groups.h"
#include "rs_int8.h"

typedef struct {
    const rs_args *a;
    const rs_finish *f;
    const uint8_t *x; /* the padded image */
    const int8_t *w;
    int64_t k, y; /* first channel of this group; where its first pixel goes */
    int64_t blocks, h, w_, p, q;
} image;

RS_INLINE void tile(const image *m, int64_t p, int64_t q, const int KB, const int PX, const int ST, const int CB) {
    const rs_args *a = m->a;
    rs_ivec acc[4][12];
    RS_UNROLL for (int b = 0; b < KB; b++) RS_UNROLL for (int i = 0; i < PX; i++)
        acc[b][i] = *(const rs_ivec_any *)(m->f->constant + m->k + b * RS_V);
    const int8_t *w = m->w;
    for (int64_t cb = 0; cb < m->blocks; cb++)
        for (int64_t r = 0; r < a->r; r++) {
            const uint8_t *x = m->x + ((cb * m->h + p * a->st[0] + r * a->dl[0]) * m->w_ + q * ST) * CB;
            for (int64_t s = 0; s < a->s; s++, x += a->dl[1] * CB)
                for (int c = 0; c < CB; c += 4, w += KB * RS_V * 4)
                    RS_UNROLL for (int i = 0; i < PX; i++) RS_UNROLL for (int b = 0; b < KB; b++)
                        acc[b][i] = rs_dot4(acc[b][i], x + c + i * ST * CB, w + b * RS_V * 4);
        }
    RS_UNROLL for (int b = 0; b < KB; b++) {
        const rs_rule rule = rs_rule_of(a, m->f, m->k + b * RS_V);
        rs_finish_block(a, &rule, acc[b], PX, m->y + ((b * m->p + p) * m->q + q) * RS_V);
    }
}

RS_INLINE void row(const image *m, int64_t p, int64_t q0, int64_t q1, const int KB, const int ST, const int CB) {
#define TILES(PX) \
    for (; rs_fits(q1 - q0, PX, KB); q0 += PX) tile(m, p, q0, KB, PX, ST, CB);
    TILES(12) TILES(8) TILES(6) TILES(4) TILES(2) TILES(1)
}

#define ROW(KB, ST, CB) \
    static void row_##KB##_##ST##_##CB(const image *m, int64_t p, int64_t q0, int64_t q1) { \
        row(m, p, q0, q1, KB, ST, CB);                                               \
    }
#define BLOCKED RS_V
ROW(1, 1, 4) ROW(2, 1, 4) ROW(4, 1, 4) ROW(1, 2, 4) ROW(2, 2, 4) ROW(4, 2, 4)
ROW(1, 1, BLOCKED) ROW(2, 1, BLOCKED) ROW(4, 1, BLOCKED) ROW(1, 2, BLOCKED) ROW(2, 2, BLOCKED) ROW(4, 2, BLOCKED)

typedef void row_fn(const image *, int64_t, int64_t, int64_t);
static row_fn *const ROWS[2][2][3] = {
    /* [x is blocked][stride 2][KB = 1, 2, 4] */
    {{row_1_1_4, row_2_1_4, row_4_1_4}, {row_1_2_4, row_2_2_4, row_4_2_4}},
    {{row_1_1_BLOCKED, row_2_1_BLOCKED, row_4_1_BLOCKED}, {row_1_2_BLOCKED, row_2_2_BLOCKED, row_4_2_BLOCKED}},
};

static void offset(uint8_t *restrict to, const uint8_t *restrict x, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = x[i] ^ 128;
}

/* Image n with x + 128, framed by zero_point + 128. Channels beyond c meet weights of zero, so any byte will do. */
static void pad(const rs_args *a, int64_t n, int64_t cb, int64_t zero_point) {
    const int64_t blocks = rs_ceil(a->c, cb), hp = a->h + a->pd[0] + a->pd[2], wp = a->w + a->pd[1] + a->pd[3];
    const int fill = (int)(zero_point + 128);
#pragma omp for collapse(2) schedule(static)
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t i = 0; i < hp; i++) {
            uint8_t *row = (uint8_t *)a->scratch + (b * hp + i) * wp * cb, *inside = row + a->pd[1] * cb;
            const int64_t h = i - a->pd[0];
            if (h < 0 || h >= a->h) {
                memset(row, fill, wp * cb);
                continue;
            }
            memset(row, fill, a->pd[1] * cb);
            memset(inside + a->w * cb, fill, a->pd[3] * cb);
            if (a->x_block > 1) {
                const uint8_t *x = (const uint8_t *)a->x[0] + ((n * blocks + b) * a->h + h) * a->w * cb;
                offset(inside, x, a->w * cb);
            } else
                for (int64_t c = 0; c < cb; c++) {
                    const int64_t from = rs_min(b * cb + c, a->c - 1);
                    const uint8_t *x = (const uint8_t *)a->x[0] + ((n * a->c + from) * a->h + h) * a->w;
                    for (int64_t j = 0, width = a->w; j < width; j++) inside[j * cb + c] = x[j] ^ 128;
                }
        }
}

void rs_conv2d_int8_blocked(const rs_args *a) {
    const int64_t cb = a->x_block > 1 ? RS_V : 4, blocks = rs_ceil(a->c, cb), outs = rs_ceil(a->k, RS_V);
    const int64_t *sizes = a->pack[1], most = sizes[0], groups = rs_groups(outs, most);
    const rs_finish f = rs_finish_of(a, 2, outs * RS_V);
    const int64_t flat = a->r * a->s == 1 && a->st[0] == 1 && a->st[1] == 1 && !rs_padded(a);
    /* 1x1 at stride 1 knows no rows: the plane is one line, cut into pieces that threads can share */
    const int64_t h = flat ? 1 : a->h + a->pd[0] + a->pd[2], w = flat ? a->h * a->w : a->w + a->pd[1] + a->pd[3];
    const int64_t p = flat ? 1 : a->p, q = flat ? a->p * a->q : a->q, piece = flat ? 48 : q, pieces = rs_ceil(q, piece);
    for (int64_t n = 0; n < a->n; n++) {
        pad(a, n, cb, sizes[1]);
#pragma omp for collapse(3) schedule(static)
        for (int64_t group = 0; group < groups; group++)
            for (int64_t i = 0; i < p; i++)
                for (int64_t j = 0; j < pieces; j++) {
                    const rs_group g = rs_group_of(group, outs, most);
                    const image m = {.a = a, .f = &f, .x = a->scratch, .blocks = blocks, .h = h, .w_ = w,
                                     .p = p, .q = q,
                                     .w = (const int8_t *)a->pack[0] + g.first * RS_V * blocks * a->r * a->s * cb,
                                     .k = g.first * RS_V, .y = (n * outs + g.first) * p * q * RS_V};
                    ROWS[a->x_block > 1][a->st[1] == 2][g.size / 2](&m, i, j * piece, rs_min(q, (j + 1) * piece));
                }
    }
}
