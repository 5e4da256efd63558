/* 3x3 convolution on small maps, a whole output map in registers: 4x4 or 2x2 pixels, where weights are most of what is
   read and padding is most of what a larger tile would multiply.

       y[n,k,p,q] = activation(bias[k] + sum over c,r,s of  x[n, c, p*ST + r - 1, q*ST + s - 1] * w[k,c,r,s])

   Which taps fall outside is known when compiling: a 4x4 map needs 100 of its 144 products, a 2x2 map 16 of 36.
   P = 4: one block of output channels x 16 pixels in registers; P = 2: up to four blocks x 4 pixels.

   Reads      x nchw16c;  bias (k rounded up to V,);  w in the order of rs_tile_cpu.cl and a FORMAT of
              rs_weights_cpu.cl;  tile int64 {KB}
   Writes     y nchw16c
   Work-item  one group of blocks, one image
   Cost       n*k*c * (100 or 16) multiply-adds; at n = 1 the weights' bandwidth bounds it */
#include "rs_cpu.cl"
#include "rs_weights_cpu.cl"

#define H (P * ST)
#define AHEAD 64 /* vectors of weights: far enough to hide the way from memory, near enough to be kept in L1 */
#if P == 4
#define EACH_PIXEL(f) EACH_16(f)
#else
#define EACH_PIXEL(f) EACH_4(f)
#endif

typedef struct {
    __global const float *x, *bias; /* of this image, this group of blocks */
    __global const rs_stored *w;
    __global float *y;
    rs_vec table;
    int blocks, activation;
} rs_image;

RS_INLINE void whole(const rs_image *m, const int KB) {
    rs_vec sum0[16], sum1[4], sum2[4], sum3[4];
#define START(i)                                                                                                       \
    sum0[i] = rs_load(m->bias);                                                                                        \
    if (KB > 1) sum1[i % 4] = rs_load(m->bias + V);                                                                    \
    if (KB > 2) sum2[i % 4] = rs_load(m->bias + 2 * V), sum3[i % 4] = rs_load(m->bias + 3 * V);
    EACH_PIXEL(START)
    __global const float *x = m->x;
    __global const rs_stored *w = m->w;
    const rs_vec table = m->table;
#define MULTIPLY(i, r, s)                                                                                              \
    if (i / P * ST + r >= 1 && i / P * ST + r <= H && i % P * ST + s >= 1 && i % P * ST + s <= H) {                    \
        const rs_vec xv = (rs_vec)(x[((i / P * ST + r - 1) * H + i % P * ST + s - 1) * V + c]);                        \
        sum0[i] = xv * w0 + sum0[i];                                                                                   \
        if (KB > 1) sum1[i % 4] = xv * w1 + sum1[i % 4];                                                               \
        if (KB > 2) sum2[i % 4] = xv * w2 + sum2[i % 4], sum3[i % 4] = xv * w3 + sum3[i % 4];                          \
    }
#define TAP(r, s, pixels)                                                                                              \
    for (int c = 0; c < V; c++, w += KB * STORED) {                                                                    \
        for (int b = 0; b < KB; b++) RS_PREFETCH(w + (AHEAD + b) * STORED);                                            \
        const rs_vec w0 = rs_weights(w, table), w1 = KB > 1 ? rs_weights(w + STORED, table) : 0;                       \
        const rs_vec w2 = KB > 2 ? rs_weights(w + 2 * STORED, table) : 0;                                              \
        const rs_vec w3 = KB > 2 ? rs_weights(w + 3 * STORED, table) : 0;                                              \
        EACH_PIXEL(pixels)                                                                                             \
    }
#define TAP_00(i) MULTIPLY(i, 0, 0)
#define TAP_01(i) MULTIPLY(i, 0, 1)
#define TAP_02(i) MULTIPLY(i, 0, 2)
#define TAP_10(i) MULTIPLY(i, 1, 0)
#define TAP_11(i) MULTIPLY(i, 1, 1)
#define TAP_12(i) MULTIPLY(i, 1, 2)
#define TAP_20(i) MULTIPLY(i, 2, 0)
#define TAP_21(i) MULTIPLY(i, 2, 1)
#define TAP_22(i) MULTIPLY(i, 2, 2)
    for (int cb = 0; cb < m->blocks; cb++, x += H * H * V) {
        TAP(0, 0, TAP_00) TAP(0, 1, TAP_01) TAP(0, 2, TAP_02)
        TAP(1, 0, TAP_10) TAP(1, 1, TAP_11) TAP(1, 2, TAP_12)
        TAP(2, 0, TAP_20) TAP(2, 1, TAP_21) TAP(2, 2, TAP_22)
    }
#define FINISH(i)                                                                                                      \
    rs_store(m->y + i * V, rs_activate_all(sum0[i], m->activation));                                                   \
    if (KB > 1) rs_store(m->y + (P * P + i) * V, rs_activate_all(sum1[i % 4], m->activation));                         \
    if (KB > 2) rs_store(m->y + (2 * P * P + i) * V, rs_activate_all(sum2[i % 4], m->activation));                     \
    if (KB > 2) rs_store(m->y + (3 * P * P + i) * V, rs_activate_all(sum3[i % 4], m->activation));
    EACH_PIXEL(FINISH)
}

RS_ALONE conv2d_map_cpu(__global const float *x, __global float *y, __global const float *bias,
                        __global const rs_stored *w, __global const long *tile TABLE, const rs_args a RS_WHICH) {
    const int blocks = rs_ceil(a.c, V), outs = rs_ceil(a.k, V), n = rs_item(0);
    rs_span g;
    rs_span_of(rs_item(1), outs, tile[0], &g);
    const rs_image m = {.x = x + n * blocks * H * H * V, .bias = bias + g.first * V,
                        .w = w + g.first * blocks * 9 * V * STORED, .y = y + (n * outs + g.first) * P * P * V,
                        .table = LOOK_UP, .blocks = blocks, .activation = a.activation};
#if P == 4
    whole(&m, 1);
#else
    if (g.size == 4) whole(&m, 4);
    else if (g.size == 2) whole(&m, 2);
    else whole(&m, 1);
#endif
}
