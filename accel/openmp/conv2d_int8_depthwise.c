/* Integer depthwise convolution on blocked channels: one vector of channels times one vector of weights a tap.

       acc = sum over r,s of  values[c,r,s] * (x[n, c, p*st + r*dl - top, q*st + s*dl - left] - zero_point) + bias
       y   = rs_int8.h's rule;  padding holds zero_point, so a tap that falls outside the image adds nothing

   Pixels near the sides are computed one by one, with the taps s0 .. s1 - 1 that they have. Elsewhere 3x3 filters
   widen each byte of x once for the three taps of a row that it meets.

   Weights    [c / V][r][s][V c] int8
   Reads      x int8 nchw<V>c;  pack[0] weights;  pack[1] int64 {1, zero_point};  pack[2..4] constant, requant, unit
   Writes     y nchw<V>c, int8 or float32
   Threads    one output row of one block of channels at a time
   Cost       n*c*p*q * r*s multiply-adds, V an instruction */
#include "rs_int8.h"

/* One output row: x is the plane of its block; y counts from the start of the output. */
typedef struct {
    const rs_args *a;
    const rs_rule *rule;
    const int8_t *x, *w;
    rs_ivec constant, zero;
    int64_t y, p;
} line;

RS_INLINE void finish(const line *m, int64_t q, const rs_ivec *acc, const int PX) {
    rs_finish_block(m->a, m->rule, acc, PX, m->y + q * RS_V);
}

/* The first byte that row r of the taps of pixel q meets, NULL if that row is padding. */
RS_INLINE const int8_t *taps_row(const line *m, int64_t q, int64_t r) {
    const int64_t h = m->p * m->a->st[0] + r * m->a->dl[0] - m->a->pd[0];
    if (h < 0 || h >= m->a->h) return 0;
    return m->x + (h * m->a->w + q * m->a->st[1] - m->a->pd[1]) * RS_V;
}

/* One pixel with whatever taps it has. */
static void pixel(const line *m, int64_t q) {
    const rs_args *a = m->a;
    const int64_t from = q * a->st[1] - a->pd[1];
    int64_t s0 = 0, s1 = a->s;
    while (s0 < s1 && from + s0 * a->dl[1] < 0) s0++;
    while (s1 > s0 && from + (s1 - 1) * a->dl[1] >= a->w) s1--;
    rs_ivec acc = m->constant;
    for (int64_t r = 0; r < a->r; r++) {
        const int8_t *x = taps_row(m, q, r);
        for (int64_t s = s0; x && s < s1; s++)
            acc = rs_multiply_add(acc, rs_bytes_at(x + s * a->dl[1] * RS_V) - m->zero,
                                  rs_bytes_at(m->w + (r * a->s + s) * RS_V));
    }
    finish(m, q, &acc, 1);
}

/* Four pixels of a 3x3 filter, all of their columns inside the image. */
RS_INLINE void three_by_three(const line *m, int64_t q, const int ST) {
    rs_ivec acc[4];
    RS_UNROLL for (int i = 0; i < 4; i++) acc[i] = m->constant;
    for (int r = 0; r < 3; r++) {
        const int8_t *x = taps_row(m, q, r);
        if (!x) continue;
        rs_ivec wide[9];
        RS_UNROLL for (int i = 0; i < 3 * ST + 3; i++) wide[i] = rs_bytes_at(x + i * RS_V) - m->zero;
        RS_UNROLL for (int s = 0; s < 3; s++) {
            const rs_ivec tap = rs_bytes_at(m->w + (r * 3 + s) * RS_V);
            RS_UNROLL for (int i = 0; i < 4; i++) acc[i] = rs_multiply_add(acc[i], wide[i * ST + s], tap);
        }
    }
    finish(m, q, acc, 4);
}

void rs_conv2d_int8_depthwise(const rs_args *a) {
    const int64_t blocks = rs_ceil(a->c, RS_V);
    const rs_finish f = rs_finish_of(a, 2, blocks * RS_V);
    const int64_t inner = rs_min(rs_ceil(a->pd[1], a->st[1]), a->q), room = a->w + a->pd[1] - (a->s - 1) * a->dl[1];
    const int64_t outer = room > 0 ? rs_max(inner, rs_min(rs_ceil(room, a->st[1]), a->q)) : inner;
    const int fast = a->r == 3 && a->s == 3 && a->dl[1] == 1;
#pragma omp for collapse(3) schedule(static)
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t p = 0; p < a->p; p++) {
                const rs_rule rule = rs_rule_of(a, &f, b * RS_V);
                const line m = {.a = a, .rule = &rule,
                                .x = (const int8_t *)a->x[0] + (n * blocks + b) * a->h * a->w * RS_V,
                                .w = (const int8_t *)a->pack[0] + b * a->r * a->s * RS_V,
                                .constant = *(const rs_ivec_any *)(f.constant + b * RS_V),
                                .zero = (rs_ivec){0} + (int32_t)((const int64_t *)a->pack[1])[1],
                                .y = ((n * blocks + b) * a->p + p) * a->q * RS_V, .p = p};
                int64_t q = 0;
                for (; q < inner; q++) pixel(&m, q);
                if (fast && a->st[1] == 1)
                    for (; q + 4 <= outer; q += 4) three_by_three(&m, q, 1);
                if (fast && a->st[1] == 2)
                    for (; q + 4 <= outer; q += 4) three_by_three(&m, q, 2);
                for (; q < a->q; q++) pixel(&m, q);
            }
}
