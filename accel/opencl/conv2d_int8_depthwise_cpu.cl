/* Integer depthwise convolution on blocked channels.

       acc = sum over r,s of  values[c,r,s] * (x[n, c, p*st + r*dl - top, q*st + s*dl - left] - zero_point) + bias
       y   = the rule of rs_int8.cl

   where a tap that falls outside the image contributes nothing.

   Reads      x int8 nchw16c;  w int8 [c / V][r][s][V c];  sizes int64 {1, zero_point};  start, requant, unit of
              rs_int8_cpu.cl
   Writes     y nchw16c, int8 or float32
   Work-item  output rows of one block of channels, 32 pixels or a row
   Cost       n*c*p*q * r*s multiply-adds, V an instruction; bitwise */
#include "rs_cpu.cl"
#include "rs_int8_cpu.cl"

#define ROWS(q) rs_ceil(32, q)

/* One output row: x is the plane of its block; y counts from the start of the output. */
typedef struct {
    __global const char *x, *w;
    __global void *out;
    const rs_rule *rule;
    rs_ivec start, zero;
    int y, p;
    rs_args a;
} rs_row;

/* PX neighbouring pixels with taps s0 .. s1 - 1 of R x S. */
RS_INLINE void tile(const rs_row *m, int q, int s0, int s1, const int R, const int S, const int PX) {
    const int st = m->a.st1 * V, dl = m->a.dl1 * V;
    rs_ivec sum[4];
#define START(i) if (i < PX) sum[i] = m->start;
    EACH_4(START)
    for (int r = 0; r < R; r++) {
        const int h = rs_tap(m->p, r, m->a.st0, m->a.dl0, m->a.pd0, m->a.h);
        if (h < 0) continue;
        __global const char *x = m->x + (h * m->a.w - m->a.pd1) * V + q * st + s0 * dl, *w = m->w + (r * S + s0) * V;
        for (int s = s0; s < s1; s++, x += dl, w += V) {
            const rs_ivec tap = rs_bytes_at(w);
#define MULTIPLY(i) if (i < PX) sum[i] = rs_multiply_add(sum[i], rs_bytes_at(x + i * st) - m->zero, tap);
            EACH_4(MULTIPLY)
        }
    }
#define FINISH(i) if (i < PX) rs_finish_all(m->out, m->y + (q + i) * V, sum[i], m->rule);
    EACH_4(FINISH)
}

/* A pixel some of whose taps may lie left or right of the image. */
RS_INLINE void edge(const rs_row *m, int q) {
    const int from = q * m->a.st1 - m->a.pd1;
    int s0 = 0, s1 = m->a.s;
    while (s0 < s1 && from + s0 * m->a.dl1 < 0) s0++;
    while (s1 > s0 && from + (s1 - 1) * m->a.dl1 >= m->a.w) s1--;
    tile(m, q, s0, s1, m->a.r, m->a.s, 1);
}

/* A whole row; the taps of pixels inner .. outer - 1 all lie inside the image. */
RS_INLINE void row(const rs_row *m, int inner, int outer, const int R, const int S) {
    int q = 0;
    for (; q < inner; q++) edge(m, q);
    for (; q + 4 <= outer; q += 4) tile(m, q, 0, S, R, S, 4);
    for (; q < m->a.q; q++) edge(m, q);
}

RS_ALONE conv2d_int8_depthwise_cpu(__global const char *x, __global void *y, __global const char *w,
                                   __global const long *sizes, __global const int *start, __global const int *requant,
                                   __global const float *unit, const rs_args a RS_WHICH) {
    const int plane = rs_item(1), blocks = rs_ceil(a.c, V), b = plane % blocks;
    const int inner = min(rs_ceil(a.pd1, a.st1), a.q), room = a.w + a.pd1 - (a.s - 1) * a.dl1;
    const int outer = room > 0 ? max(inner, min(rs_ceil(room, a.st1), a.q)) : inner;
    rs_rule rule;
    rs_rule_of(&rule, requant, unit, b * V, blocks * V, a);
    rs_row m = {.x = x + plane * a.h * a.w * V, .w = w + b * a.r * a.s * V, .out = y, .rule = &rule,
                .start = rs_load_int(start + b * V), .zero = (int)sizes[1], .a = a};
    const int first = rs_item(0) * ROWS(a.q), end = min(a.p, first + ROWS(a.q));
    for (m.p = first; m.p < end; m.p++) {
        m.y = (plane * a.p + m.p) * a.q * V;
        if (a.r == 3 && a.s == 3) row(&m, inner, outer, 3, 3); /* loops of known length unroll */
        else row(&m, inner, outer, a.r, a.s);
    }
}
