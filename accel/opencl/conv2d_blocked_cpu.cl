/* Direct convolution on blocked channels, a register tile (rs_tile_cpu.cl) at a time.

       y[n,k,p,q] = activation(bias[k] + sum over c,r,s of  xpad[n, c, p*st + r*dl, q*st + s*dl] * w[k,c,r,s])

   VIN = V: x is nchw16c. VIN = 1: x is nchw, the first layer, whose 3 channels would leave 13 of 16 lanes idle.
   Where rows are padded or strided, `pad` first copies them as  [column mod st][column / st][VIN]  with zeros at the
   sides. A filter of one pixel needs one residue of columns and every st-th row alone.

   Reads      x;  bias (k rounded up to V,);  w in the order of rs_tile_cpu.cl and a FORMAT of
              rs_weights_cpu.cl;  tile int64 {KB}
   Writes     y nchw16c
   Scratch    copies of all images' rows
   Work-item  pad: a row of one block of channels.  conv: an output row (48 pixels where 1x1 at stride 1 knows no rows)
              of one group of blocks
   Cost       n*k*p*q * c*r*s multiply-adds less the rows of taps that fall wholly into padding */
#include "rs_cpu.cl"
#include "rs_tile_cpu.cl"

#define ARGUMENTS                                                                                                      \
    __global const float *x, __global float *y, __global const float *bias, __global const rs_stored *w,               \
        __global const long *tile TABLE, __global float *scratch, const rs_args a

RS_INLINE int copied(rs_args a) { return a.pd1 || a.pd3 || a.st1 > 1; }
RS_INLINE int residues(rs_args a) { return a.s > 1 ? a.st1 : 1; }
RS_INLINE int columns(rs_args a) { return rs_ceil(a.pd1 + a.w + a.pd3, a.st1); }

RS_ALONE pad(ARGUMENTS RS_WHICH) {
    const int line = rs_item(0), h = line % a.h, width = columns(a);
    if (a.r == 1 && (h + a.pd0) % a.st0) return;
    x += line * a.w * VIN;
    scratch += line * residues(a) * width * VIN;
    for (int residue = 0; residue < residues(a); residue++)
        for (int j = 0; j < width; j++, scratch += VIN) {
            const int column = j * a.st1 + residue - a.pd1, inside = column >= 0 && column < a.w;
#if VIN == 1
            scratch[0] = inside ? x[column] : 0;
#else
            rs_store(scratch, inside ? rs_load(x + column * V) : 0);
#endif
        }
}

RS_ALONE conv(ARGUMENTS RS_WHICH) {
    const int blocks = rs_ceil(a.c, VIN), outs = rs_ceil(a.k, V), n = rs_item(1);
    const int flat = a.r * a.s * a.st0 * a.st1 == 1 && !a.pd0 && !a.pd1 && !a.pd2 && !a.pd3;
    rs_span g;
    rs_span_of(rs_item(2), outs, tile[0], &g);
    const int h = flat ? 1 : a.h, q = flat ? a.p * a.q : a.q, p = flat ? 0 : rs_item(0);
    const int start = flat ? rs_item(0) * 48 : 0, end = flat ? min(q, start + 48) : q;
    const int residue = (copied(a) ? columns(a) : flat ? a.h * a.w : a.w) * VIN;
    const int line = copied(a) ? residues(a) * residue : residue;
    const int lines = flat ? rs_ceil(q, 48) : a.p;
    const int few = a.n * lines * min(q, 48) * g.size <= SUMS; /* one tile a group: it waits for weights anyhow */
    const rs_image m = {
        .tiles = few ? g.size : n * lines + rs_item(0),
        .x = (copied(a) ? scratch : x) + n * blocks * h * line, .bias = bias + g.first * V,
        .w = w + g.first * blocks * a.r * a.s * VIN * STORED, .table = LOOK_UP, .blocks = blocks, .h = h, .top = a.pd0,
        .r = a.r, .s = a.s, .st = a.st0, .dh = a.dl0, .activation = a.activation, .line = line, .residue = residue,
        .sw = a.st1, .dw = a.dl1, .next = a.p * a.q * V};
    y += (((n * outs + g.first) * (flat ? 1 : a.p) + p) * q + start) * V;
    if (g.size == 4) rs_line(&m, p, start, end, y, 4);
    else if (g.size == 2) rs_line(&m, p, start, end, y, 2);
    else rs_line(&m, p, start, end, y, 1);
}
