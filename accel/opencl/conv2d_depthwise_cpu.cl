/* Depthwise convolution on blocked channels: every channel has a filter of its own, so a vector of V channels meets a
   vector of V weights and nothing is broadcast.

       y[n,c,p,q] = activation(bias[c] + sum over r,s of  x[n, c, p*st + r*dl - top, q*st + s*dl - left] * w[c,r,s])

   where a tap that falls outside the image contributes nothing: rows of them are skipped, and pixels near the sides are
   computed one by one, with the taps s0 .. s1 - 1 that they have.

   Reads      x nchw16c;  bias (c rounded up to V,);  w [c / V][r][s][V c]
   Writes     y nchw16c
   Work-item  output rows of one block of channels, 32 pixels or a row
   Cost       n*c*p*q * r*s multiply-adds less those in padding; each takes a load, so loads bound it */
#include "rs_cpu.cl"

#define ROWS(q) rs_ceil(32, q)

/* One output row: x is the plane of its block, y the row. */
typedef struct {
    __global const float *x, *w;
    __global float *y;
    rs_vec bias;
    int p;
    rs_args a;
} rs_row;

/* PX neighbouring pixels with taps s0 .. s1 - 1 of R x S. */
RS_INLINE void tile(const rs_row *m, int q, int s0, int s1, const int R, const int S, const int PX) {
    const int st = m->a.st1 * V, dl = m->a.dl1 * V;
    rs_vec sum[8];
#define START(i) if (i < PX) sum[i] = m->bias;
    EACH_8(START)
    for (int r = 0; r < R; r++) {
        const int h = rs_tap(m->p, r, m->a.st0, m->a.dl0, m->a.pd0, m->a.h);
        if (h < 0) continue;
        __global const float *x = m->x + (h * m->a.w - m->a.pd1) * V + q * st + s0 * dl, *w = m->w + (r * S + s0) * V;
        for (int s = s0; s < s1; s++, x += dl, w += V) {
            const rs_vec tap = rs_load(w);
#define MULTIPLY(i) if (i < PX) sum[i] = tap * rs_load(x + i * st) + sum[i];
            EACH_8(MULTIPLY)
        }
    }
#define FINISH(i) if (i < PX) rs_store(m->y + (q + i) * V, rs_activate_all(sum[i], m->a.activation));
    EACH_8(FINISH)
}

/* A pixel some of whose taps may lie left or right of the image. */
RS_INLINE void edge(const rs_row *m, int q, const int R, const int S) {
    const int from = q * m->a.st1 - m->a.pd1;
    int s0 = 0, s1 = S;
    while (s0 < s1 && from + s0 * m->a.dl1 < 0) s0++;
    while (s1 > s0 && from + (s1 - 1) * m->a.dl1 >= m->a.w) s1--;
    tile(m, q, s0, s1, R, S, 1);
}

/* A whole row; the taps of pixels inner .. outer - 1 all lie inside the image. */
RS_INLINE void row(const rs_row *m, int inner, int outer, const int R, const int S) {
    int q = 0;
    for (; q < inner; q++) edge(m, q, R, S);
    for (; q + 8 <= outer; q += 8) tile(m, q, 0, S, R, S, 8);
    for (; q + 2 <= outer; q += 2) tile(m, q, 0, S, R, S, 2);
    for (; q < m->a.q; q++) edge(m, q, R, S);
}

RS_ALONE conv2d_depthwise_cpu(__global const float *x, __global float *y, __global const float *bias,
                              __global const float *w, const rs_args a RS_WHICH) {
    const int plane = rs_item(1), b = plane % rs_ceil(a.c, V), room = a.w + a.pd1 - (a.s - 1) * a.dl1;
    const int inner = min(rs_ceil(a.pd1, a.st1), a.q);
    const int outer = room > 0 ? max(inner, min(rs_ceil(room, a.st1), a.q)) : inner;
    rs_row m = {.x = x + plane * a.h * a.w * V, .w = w + b * a.r * a.s * V, .bias = rs_load(bias + b * V), .a = a};
    const int first = rs_item(0) * ROWS(a.q), end = min(a.p, first + ROWS(a.q));
    for (m.p = first; m.p < end; m.p++) {
        m.y = y + (plane * a.p + m.p) * a.q * V;
        if (a.r == 3 && a.s == 3) row(&m, inner, outer, 3, 3); /* loops of known length unroll */
        else row(&m, inner, outer, a.r, a.s);
    }
}
