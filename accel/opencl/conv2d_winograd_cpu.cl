/* Winograd convolution, 3x3 at stride 1: F(M,3) makes M x M outputs of a channel from A*A products (A = M + 2) instead
   of 9*M*M: 36 for 144 with M = 4, 16 for 36 with M = 2.

       V = B' d B      a tile d of A x A inputs, one channel          (once for all filters)
       U = G w G'      the filter                                      (when the plan is made)
       y = A' (sum over c of U * V) A + bias                           element by element, then back

   The sum over channels is A*A small matrix products, each a 1x1 convolution of register tiles (rs_tile_cpu.cl).
   Neighbouring tiles overlap by two pixels, so inputs are transformed (A/M)^2 times as often as they are read.

   Reads      x nchw16c;  bias (k rounded up to V,);  w [A*A][k / (KB*V)][c][KB][V k];  sizes int64 {KB (2), ..}
   Writes     y nchw16c
   Scratch    V [A*A][c / V][tiles][V], then products [A*A][k / V][tiles][V], of all images; behind a point an unused
              vector where their number would be even
   Work-item  transform, finish: a row of tiles of one block of channels.  multiply: a group of blocks at one point, 48
              tiles
   Cost       n*k*c * p*q * (A/M)^2 multiply-adds and as many transforms; weights are (A/3)^2 times as many bytes and
              come while the panel before them is multiplied; on small maps at n = 1 the larger of both bounds it
   Source     Lavin, Gray: Fast Algorithms for Convolutional Neural Networks, CVPR 2016 */
#define VIN V
#define FORMAT 0
#define AHEAD (64 * V)
#include "rs_cpu.cl"
#include "rs_tile_cpu.cl"

#define ARGUMENTS                                                                                                      \
    __global const float *x, __global float *y, __global const float *bias, __global const float *w,                   \
        __global const long *sizes, __global float *scratch, const rs_args a

#define A (M + 2)
#if M == 4
#define EACH_POINT(f) EACH_6(f)
#define EACH_OUTPUT(f) EACH_4(f)
#else
#define EACH_POINT(f) EACH_4(f)
#define EACH_OUTPUT(f) f(0) f(1)
#endif

/* One row or column of B' d: A numbers at distance `step`, in place. */
RS_INLINE void to_points(rs_vec *d, const int step) {
#define D(i) d[(i) * step]
#if M == 2
    const rs_vec a = D(0) - D(2), b = D(1) + D(2), c = D(2) - D(1), e = D(1) - D(3);
    D(0) = a, D(1) = b, D(2) = c, D(3) = e;
#else
    const rs_vec d0 = D(0), d1 = D(1), d2 = D(2), d3 = D(3), d4 = D(4), d5 = D(5);
    const rs_vec even = d4 - 4.0f * d2, odd = d3 - 4.0f * d1, near = d4 - d2, far = 2.0f * (d3 - d1);
    D(0) = 4.0f * d0 - 5.0f * d2 + d4;
    D(1) = even + odd, D(2) = even - odd;
    D(3) = near + far, D(4) = near - far;
    D(5) = 4.0f * d1 - 5.0f * d3 + d5;
#endif
}

/* One row or column of A' m: A numbers at distance `step` become M, in place. */
RS_INLINE void from_points(rs_vec *d, const int step) {
    const rs_vec plus = D(1) + D(2), minus = D(1) - D(2);
#if M == 2
    D(0) = D(0) + plus, D(1) = minus - D(3);
#else
    const rs_vec more = D(3) + D(4), less = D(3) - D(4);
    D(0) = D(0) + plus + more;
    D(1) = minus + 2.0f * less;
    D(2) = plus + 4.0f * more;
    D(3) = minus + 8.0f * less + D(5);
#endif
}

RS_INLINE int tiles(rs_args a) { return a.n * rs_ceil(a.p, M) * rs_ceil(a.q, M); }
/* Numbers from a point of so many blocks to the next one. An odd number of vectors: points at distances of a power of
   two would take each other's places in the first cache. */
RS_INLINE int apart(rs_args a, int blocks) { return (blocks * tiles(a) | 1) * V; }
RS_INLINE __global float *products(rs_args a, __global float *scratch) {
    return scratch + A * A * apart(a, rs_ceil(a.c, V));
}

RS_ALONE transform(ARGUMENTS RS_WHICH) {
    const int row = rs_item(0), rows = rs_ceil(a.p, M), columns = rs_ceil(a.q, M), blocks = rs_ceil(a.c, V);
    const int block = rs_item(1), n = row / rows, h0 = row % rows * M - a.pd0, point = apart(a, blocks);
    x += (n * blocks + block) * a.h * a.w * V;
    scratch += (block * tiles(a) + row * columns) * V;
    for (int column = 0; column < columns; column++, scratch += V) {
        const int w0 = column * M - a.pd1, whole = h0 >= 0 && h0 + A <= a.h && w0 >= 0 && w0 + A <= a.w;
        rs_vec d[A * A];
#define INSIDE(i, j) whole || (h0 + i >= 0 && h0 + i < a.h && w0 + j >= 0 && w0 + j < a.w)
#define LOAD(i, j) d[i * A + j] = INSIDE(i, j) ? rs_load(x + ((h0 + i) * a.w + w0 + j) * V) : 0;
#if M == 4
#define LOAD_ROW(i) LOAD(i, 0) LOAD(i, 1) LOAD(i, 2) LOAD(i, 3) LOAD(i, 4) LOAD(i, 5)
#define STORE_ROW(i) STORE(i, 0) STORE(i, 1) STORE(i, 2) STORE(i, 3) STORE(i, 4) STORE(i, 5)
#else
#define LOAD_ROW(i) LOAD(i, 0) LOAD(i, 1) LOAD(i, 2) LOAD(i, 3)
#define STORE_ROW(i) STORE(i, 0) STORE(i, 1) STORE(i, 2) STORE(i, 3)
#endif
        EACH_POINT(LOAD_ROW)
#define DOWN(j) to_points(d + j, A);
#define ALONG(i) to_points(d + i * A, 1);
        EACH_POINT(DOWN)
        EACH_POINT(ALONG)
#define STORE(i, j) rs_store(scratch + (i * A + j) * point, d[i * A + j]);
        EACH_POINT(STORE_ROW)
    }
}

RS_ALONE multiply(ARGUMENTS RS_WHICH) {
    const int blocks = rs_ceil(a.c, V), outs = rs_ceil(a.k, V), count = tiles(a), point = rs_item(2);
    const int start = rs_item(0) * 48, end = min(count, start + 48);
    rs_span g;
    rs_span_of(rs_item(1), outs, sizes[0], &g);
    const rs_image m = {.x = scratch + point * apart(a, blocks), .w = w + (point * outs + g.first) * blocks * V * V,
                        .tiles = start * g.size / SUMS, .table = 0, .blocks = blocks, .h = 1, .r = 1, .s = 1, .st = 1,
                        .dh = 1, .line = count * V, .residue = 0, .sw = 1, .dw = 1, .next = count * V};
    __global float *to = products(a, scratch) + point * apart(a, outs) + (g.first * count + start) * V;
    if (g.size == 2) rs_line(&m, 0, start, end, to, 2);
    else rs_line(&m, 0, start, end, to, 1);
}

RS_ALONE finish(ARGUMENTS RS_WHICH) {
    const int row = rs_item(0), rows = rs_ceil(a.p, M), columns = rs_ceil(a.q, M), outs = rs_ceil(a.k, V);
    const int block = rs_item(1), n = row / rows, p0 = row % rows * M, point = apart(a, outs);
    __global const float *from = products(a, scratch) + (block * tiles(a) + row * columns) * V;
    const rs_vec b = rs_load(bias + block * V);
    y += ((n * outs + block) * a.p + p0) * a.q * V;
    for (int column = 0; column < columns; column++, from += V) {
        rs_vec d[A * A];
#undef LOAD
#define LOAD(i, j) d[i * A + j] = rs_load(from + (i * A + j) * point);
        EACH_POINT(LOAD_ROW)
#define BACK_DOWN(j) from_points(d + j, A);
#define BACK_ALONG(i) from_points(d + i * A, 1);
        EACH_POINT(BACK_DOWN)
        EACH_OUTPUT(BACK_ALONG)
#define WRITE(i, j)                                                                                                    \
    if (p0 + i < a.p && column * M + j < a.q)                                                                          \
        rs_store(y + (i * a.q + column * M + j) * V, rs_activate_all(d[i * A + j] + b, a.activation));
#if M == 4
#define WRITE_ROW(i) WRITE(i, 0) WRITE(i, 1) WRITE(i, 2) WRITE(i, 3)
#else
#define WRITE_ROW(i) WRITE(i, 0) WRITE(i, 1)
#endif
        EACH_OUTPUT(WRITE_ROW)
    }
}
