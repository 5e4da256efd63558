/* Sparse convolution for processors: up to 8 vectors of pixels for each stored weight.

       TERNARY = 0   y[n,k,p,q] = activation(bias[k] + sum over the stored weights (c,r,s) of row k of  value * x[..])
       TERNARY = 1   y[n,k,p,q] = activation(bias[k] + positive * (sum of x over taps of code 1) - negative * (code 2))

   A stored weight (c, r, s) needs x[c, p*st + r*dl - top, q*st + s*dl - left] for all (p, q) of a tile of 8 vectors.
   `planes` writes down, for every c and s, the padded rows at those columns, sorted by their residue modulo the stride:
   then rows p, p + 1, .. of a tap are neighbours, and its pixels follow each other:

       planes     [n][tile][c][row mod st][s][rows][q]    rows = those of a tile + (r-1)*dl / st
       or, where a map is one vector,  [n][1][c][r][s][V]

   The offset of tap (c, r, s) is where the tile's first pixel lies (packing_sparse.Planes.offsets). Channels come in
   blocks whose planes fit the first cache: all filters use a block before the next one, and their unfinished sums wait
   in y. A last, partly filled vector may read what lies behind the last plane; what it makes of that is dropped.

   Reads      x nchw;  bias (k,);  ends int32 (blocks*k + 1,): visit i in channel block b has the stored weights from
              ends[b*k + i] to ends[b*k + i + 1];  offsets uint16 (nnz,);  values float32 (nnz,), or
              middles int32 (blocks*k,): the end of each visit's positive taps;
              sizes int64 {channels of a block, rows, numbers of a channel's planes, whether the image has that
              form};  filters int32 (blocks*k,): whose visit it is, a block's in any order;
              where int32 (numbers of a channel's planes,): which number of a channel's image stands there, -1 none;
              -2 first where rows are wide enough to copy them;  scales float32 {positive, negative}
   Writes     y nchw
   Scratch    planes, and 9 vectors that a last one may read
   Work-item  planes: one channel of one tile.  conv: a tile, all filters or a share of them
   Cost       n*p*q * nnz multiply-adds (or additions); loads of pixels bound it, one for each */
#include "rs_cpu.cl"

#define TILE 8     /* vectors of pixels */
#define VISITS 256 /* chosen at once */
#if TERNARY
#define VALUES __global const int *middles
#define SCALES __global const float *scales,
#else
#define VALUES __global const float *values
#define SCALES
#endif
#define ARGUMENTS                                                                                                      \
    __global const float *x, __global float *y, __global const float *bias, __global const int *ends,                  \
        __global const ushort *offsets, VALUES, __global const long *sizes, __global const int *filters, SCALES        \
        __global const int *where, __global float *scratch, const rs_args a

typedef struct __attribute__((packed, aligned(4))) { float8 v; } half_any;
typedef struct __attribute__((packed, aligned(4))) { float4 v; } four_any;

/* One row: the image's pixels at columns q*st + shift, zeros left and right of it. Nothing is read from `end` on. */
RS_INLINE void plane_row(__global float *row, __global const float *line, __global const float *end, int shift,
                         rs_args a) {
    const int first = clamp(a.st1 == 1 ? -shift : rs_ceil(max(-shift, 0), a.st1), 0, a.q);
    const int last = clamp(a.st1 == 1 ? a.w - shift : rs_ceil(max(a.w - shift, 0), a.st1), first, a.q);
    int q = 0;
    for (; q < first; q++) row[q] = 0;
    line += shift;
    if (a.st1 == 1) {
        for (; q + V <= last; q += V) rs_store(row + q, rs_load(line + q));
        if (q + 8 <= last) ((__global half_any *)(row + q))->v = ((__global const half_any *)(line + q))->v, q += 8;
    } else if (a.st1 == 2)
        for (; q + 8 <= last && line + 2 * q + V <= end; q += 8)
            ((__global half_any *)(row + q))->v = rs_load(line + 2 * q).even;
    for (; q < last; q++) row[q] = line[q * a.st1];
    for (; q < a.q; q++) row[q] = 0;
}

RS_INLINE void zeros(__global float *y, int count) {
    int i = 0;
    for (; i + V <= count; i += V) rs_store(y + i, 0);
    for (; i < count; i++) y[i] = 0;
}

/* Rows of a plane at stride 1 that is as wide as the image: one run, then zeros at the sides. Small maps have too many
   rows to copy them one by one. */
RS_INLINE void plane_run(__global float *plane, __global const float *x, int shift, int top, int rows, rs_args a) {
    const int w = a.w, above = min(rows, max(0, -top)), below = min(rows, max(above, a.h - top));
    const int first = clamp(-shift, 0, w), last = clamp(w - shift, first, w);
    const int count = (below - above) * w, end = count - max(0, shift);
    __global float *inside = plane + above * w;
    __global const float *from = x + (top + above) * w + shift;
    zeros(plane, above * w);
    zeros(plane + below * w, (rows - below) * w);
    int i = max(0, -shift);
    if (i + V <= end) {
        for (; i + V <= end; i += V) rs_store(inside + i, rs_load(from + i));
        rs_store(inside + end - V, rs_load(from + end - V)); /* what is left, and some of it again */
    } else for (; i < end; i++) inside[i] = from[i];
    for (i = 0; i < count; i += w) {
        for (int q = 0; q < first; q++) inside[i + q] = 0;
        for (int q = last; q < w; q++) inside[i + q] = 0;
    }
}

/* Planes of a small map, number by number; of an image of one vector in a register. */
RS_INLINE void look_up(__global float *planes, __global const float *x, __global const int *where, int channel,
                       rs_args a) {
    int i = 0;
#ifdef __AVX512F__
    typedef float floats __attribute__((vector_size(64)));
    typedef int ints __attribute__((vector_size(64)));
    for (; a.h * a.w == V && i + V <= channel; i += V) {
        const rs_ivec at = rs_load_int(where + i);
        const floats found =
            __builtin_ia32_permvarsf512(__builtin_astype(rs_load(x), floats), __builtin_astype(at, ints));
        rs_store(planes + i, as_float16(as_int16(found) & ~(at >> 31)));
    }
#endif
    for (; i < channel; i++) planes[i] = where[i] < 0 ? 0 : x[where[i]];
}

RS_ALONE planes(ARGUMENTS RS_WHICH) {
    const int c = rs_item(0), tile = rs_item(1), n = rs_item(2), tiles = rs_items(1);
    const int rows = sizes[1], channel = sizes[2], top = tile * TILE * V / a.q;
    __global const float *end = x + a.n * a.c * a.h * a.w;
    scratch += ((n * tiles + tile) * a.c + c) * channel;
    x += (n * a.c + c) * a.h * a.w;
    if (c == a.c - 1 && tile == tiles - 1 && n == a.n - 1) zeros(scratch + channel, 9 * V);
    if (where[0] != -2) {
        look_up(scratch, x, where, channel, a);
        return;
    }
    const int run = a.st0 == 1 && a.st1 == 1 && a.q == a.w;
    for (int residue = 0; residue < a.st0; residue++)
        for (int s = 0; s < a.s; s++, scratch += rows * a.q) {
            const int shift = s * a.dl1 - a.pd1;
            if (run) plane_run(scratch, x, shift, top - a.pd0, rows, a);
            else for (int i = 0; i < rows; i++) {
                const int h = (top + i) * a.st0 + residue - a.pd0;
                if (h >= 0 && h < a.h) plane_row(scratch + i * a.q, x + h * a.w, end, shift, a);
                else zeros(scratch + i * a.q, a.q);
            }
        }
}

/* One tile of one filter in one block of channels. The first block starts from the bias, the last one activates.
   Planes, y and `pixels` (how many are left) are those from the tile's first pixel on. */
typedef struct {
    __global const float *planes;
    __global float *y;
    __global const ushort *offsets;
    VALUES;
    rs_vec bias;
    float positive, negative;
    int pixels, begin, middle, end, first, last, activation;
} rs_job;

/* The first `count` numbers of a vector. */
RS_INLINE rs_vec load_some(__global const float *y, int count) {
    rs_lanes some = {.v = 0};
    if (count >= V) return rs_load(y);
    for (int i = 0; i < count; i++) some.lane[i] = y[i];
    return some.v;
}
RS_INLINE void store_some(__global float *y, rs_vec v, int count) {
    const rs_lanes some = {.v = v};
    if (count >= V) rs_store(y, v);
    else for (int i = 0; i < count; i++) y[i] = some.lane[i];
}

/* sum[i] = the planes at offsets e .. end, each times its value, added up by SETS sums of their own for each vector. */
RS_INLINE void add_up(const rs_job *t, __global const float *x, int e, int end, rs_vec *sum, const int T,
                      const int SETS) {
    rs_vec sum1[8], sum2[8], sum3[8];
#define START(i) sum1[i] = sum2[i] = sum3[i] = 0;
    EACH_8(START)
#if TERNARY
#define TERM(i, to) to[i] += rs_load(from + i * V);
#define VALUE(e)
#else
#define TERM(i, to) to[i] = value * rs_load(from + i * V) + to[i];
#define VALUE(e) const rs_vec value = t->values[e];
#endif
#define TERM_0(i) if (i < T) TERM(i, sum)
#define TERM_1(i) if (i < T) TERM(i, sum1)
#define TERM_2(i) if (i < T) TERM(i, sum2)
#define TERM_3(i) if (i < T) TERM(i, sum3)
#define ENTRY(j)                                                                                                       \
    if (j < SETS) {                                                                                                    \
        __global const float *from = x + t->offsets[e + j];                                                            \
        VALUE(e + j) EACH_8(TERM_##j)                                                                                  \
    }
    for (; e + SETS <= end; e += SETS) { ENTRY(0) ENTRY(1) ENTRY(2) ENTRY(3) }
    for (; SETS > 1 && e < end; e++) { ENTRY(0) }
#define TOTAL(i) if (i < T && SETS > 1) sum[i] += sum1[i] + sum2[i] + sum3[i];
    EACH_8(TOTAL)
}

RS_INLINE void filter(const rs_job *t, int pixel, const int T, const int SETS) {
    __global const float *x = t->planes + pixel;
    __global float *y = t->y + pixel;
    const int left = t->pixels - pixel;
    rs_vec sum[8], old[8];
#define BEGIN(i) if (i < T) old[i] = t->first ? t->bias : load_some(y + i * V, i < T - 1 ? V : left - i * V);
    EACH_8(BEGIN)
#if TERNARY
    rs_vec minus[8];
#define NONE(i) sum[i] = minus[i] = 0;
    EACH_8(NONE)
    add_up(t, x, t->begin, t->middle, sum, T, SETS);
    add_up(t, x, t->middle, t->end, minus, T, SETS);
#define SCALE(i) if (i < T) sum[i] = old[i] + t->positive * sum[i] - t->negative * minus[i];
    EACH_8(SCALE)
#else
#define FROM(i) if (i < T) sum[i] = old[i];
    EACH_8(FROM)
    add_up(t, x, t->begin, t->end, sum, T, SETS);
#endif
#define END(i)                                                                                                         \
    if (i < T) store_some(y + i * V, t->last ? rs_activate_all(sum[i], t->activation) : sum[i],                        \
                          i < T - 1 ? V : left - i * V);
    EACH_8(END)
}

#if !TERNARY
/* A map of four pixels: narrow vectors load nothing beyond it. */
RS_INLINE void small(const rs_job *t) {
    float4 sum[8];
    int e = t->begin;
#define NOTHING(i) sum[i] = 0;
    EACH_8(NOTHING)
#define FOUR(i) sum[i] = t->values[e + i] * ((__global const four_any *)(t->planes + t->offsets[e + i]))->v + sum[i];
    for (; e + 8 <= t->end; e += 8) { EACH_8(FOUR) }
    for (; e < t->end; e++) { FOUR(0) }
    sum[0] = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
    sum[0] += t->first ? t->bias.s0123 : ((__global const four_any *)t->y)->v;
    if (t->last && t->activation) sum[0] = sum[0] < 0 ? 0 : sum[0];
    if (t->last && t->activation == 2) sum[0] = sum[0] > 6 ? 6 : sum[0];
    ((__global four_any *)t->y)->v = sum[0];
}
#endif

/* Those of the visits from .. to - 1 whose filter is one of `each` from `least` on, without a branch to guess wrong. */
RS_INLINE int choose(__global const int *filters, int from, int to, int least, int each, int *mine) {
    int count = 0;
    for (int i = from; i < to; i++) {
        mine[count] = i;
        count += (uint)(filters[i] - least) < (uint)each;
    }
    return count;
}

RS_ALONE conv(ARGUMENTS RS_WHICH) {
    const int each = rs_ceil(a.k, rs_items(0)), least = rs_item(0) * each;
    const int tile = rs_item(1), tiles = rs_items(1), n = rs_item(2), pixels = a.p * a.q;
    const int size = sizes[0], channel = sizes[2], direct = sizes[3], start = tile * TILE * V;
    const int left = min(TILE, rs_ceil(pixels, V) - tile * TILE);
    __global const float *planes = direct ? x + n * a.c * pixels + start
                                 : scratch + (n * tiles + tile) * a.c * channel + start % a.q;
    rs_job t = {.offsets = offsets, .pixels = pixels - start, .activation = a.activation};
#if TERNARY
    t.middles = middles, t.positive = scales[0], t.negative = scales[1];
#else
    t.values = values;
#endif
    for (int c = 0, entry = 0; c < a.c; c += size, entry += a.k) {
        t.first = c == 0, t.last = c + size >= a.c, t.planes = planes + c * channel;
        for (int from = 0; from < a.k; from += VISITS) {
            int mine[VISITS];
            const int count = choose(filters + entry, from, min(a.k, from + VISITS), least, each, mine);
            for (int i = 0; i < count; i++) {
                const int visit = entry + mine[i], k = filters[visit];
                t.begin = ends[visit], t.end = ends[visit + 1], t.bias = bias[k];
#if TERNARY
                t.middle = middles[visit];
#endif
                t.y = y + (n * a.k + k) * pixels + start;
                int pixel = 0;
#if !TERNARY
                if (pixels == 4) {
                    small(&t);
                    continue;
                }
#endif
                if (left == TILE) filter(&t, 0, 8, 1);
                else {
                    if (left & 4) filter(&t, pixel, 4, 2), pixel += 4 * V;
                    if (left & 2) filter(&t, pixel, 2, 4), pixel += 2 * V;
                    if (left & 1) filter(&t, pixel, 1, 4);
                }
            }
        }
    }
}
