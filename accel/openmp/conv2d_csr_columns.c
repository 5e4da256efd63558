/* Sparse 1x1 convolution with blocked channels: vectors of columns (n,p,q) that follow each other, sums in registers.

       y[n,k,p,q] = activation(bias[k] + sum over stored (k,c) of  x[n, c, p - top, q - left] * value)

   A work item is T vectors of columns. The lines of a block of channels,

       lines   [c][T][RS_V columns]

   are made from the blocked image by transposing, and stay in the first cache while all filters pass by. Stored weight
   e adds to all T sums:

       acc[i] += value[e] * lines[offset[e] + i * RS_V ..]

   Unfinished sums wait in the second cache. Any order of filters will do there: they go by the number of their weights
   in the block, so that the processor guesses right where a loop ends.

   Reads      x nchw<V>c;  pack[0] ends int32, pack[1] filters int32: visit i, of one filter of a chunk in one block of
              channels, has weights ends[i] .. ends[i+1];  pack[2] offsets uint16, pack[3] values float32;
              pack[4] int64 {channels in a block, filters in a chunk, T};  bias, zeros up to a whole block
   Writes     y nchw<V>c
   Threads    (item, chunk of filters)
   Scratch    on the stack: lines of a block of channels, sums of a chunk of filters
   Cost       n*p*q * nnz multiply-adds: loads bound them, T + 2 for T. Each line and each sum takes part in one
              transposition, and sums go to the second cache and back once a block */
#include "rs_transpose.h"

enum {
    MOST = 4,       /* vectors of an item */
    ROOM = 1 << 14, /* numbers: lines of a block; packing_images.ROOM */
    SUMS = 1 << 16, /* numbers: sums of a chunk; packing_images.SUMS */
};

/* Where the lanes of a vector lie in a blocked image whose first block of channels is meant: from `first` on at
   distances `step`, or where `lanes` says; -1 where there is none. */
typedef struct {
    int64_t first, step;
    const int64_t *lanes;
} place;

typedef struct {
    const rs_args *a;
    int64_t c, k, inside, outside; /* blocks of channels and pixels, of the input and the output */
    int64_t size, chunk, vectors, items;
} layer;

RS_INLINE layer layer_of(const rs_args *a) {
    const int64_t *sizes = a->pack[4];
    layer m = {.a = a, .size = sizes[0], .chunk = sizes[1], .vectors = sizes[2]};
    m.c = rs_ceil(a->c, RS_V), m.k = rs_ceil(a->k, RS_V), m.inside = a->h * a->w, m.outside = a->p * a->q;
    m.items = rs_ceil(a->n * m.outside, m.vectors * RS_V);
    return m;
}

/* Columns column .. column + RS_V - 1, each where lanes then says. */
static place columns_of(const int64_t *lanes) {
    place at = {.first = lanes[0], .step = lanes[1] - lanes[0]};
    for (int i = 0; i < RS_V; i++)
        if (lanes[i] < 0 || lanes[i] != at.first + i * at.step) at.lanes = lanes;
    return at;
}

/* The columns of an item: from which numbers, to which. */
static void find(const layer *m, int64_t item, int64_t *in, int64_t *out) {
    const rs_args *a = m->a;
    int64_t column = item * m->vectors * RS_V, n = column / m->outside, pixel = column % m->outside;
    int64_t p = pixel / a->q, q = pixel % a->q;
    for (int64_t i = 0; i < m->vectors * RS_V; i++) {
        const int64_t h = p - a->pd[0], w = q - a->pd[1];
        const int inside = n < a->n && h >= 0 && h < a->h && w >= 0 && w < a->w;
        in[i] = inside ? (n * m->c * m->inside + h * a->w + w) * RS_V : -1;
        out[i] = n < a->n ? (n * m->k * m->outside + pixel) * RS_V : -1;
        pixel++, q++;
        if (q == a->q) q = 0, p++;
        if (pixel == m->outside) pixel = p = q = 0, n++;
    }
}

/* The lines of channel blocks first .. last - 1. */
static void make_lines(const layer *m, const place *from, int64_t first, int64_t last, float *to) {
    for (int64_t b = first; b < last; b++)
        for (int64_t i = 0; i < m->vectors; i++) {
            const float *x = (const float *)m->a->x[0] + b * m->inside * RS_V;
            float *line = to + ((b - first) * RS_V * m->vectors + i) * RS_V;
            if (!from[i].lanes) rs_transpose(x + from[i].first, from[i].step, line, m->vectors * RS_V);
            else {
                float some[RS_V * RS_V] = {0};
                for (int64_t n = 0; n < RS_V; n++)
                    if (from[i].lanes[n] >= 0) rs_store(some + n * RS_V, rs_load(x + from[i].lanes[n]));
                rs_transpose(some, RS_V, line, m->vectors * RS_V);
            }
        }
}

/* The sums of filter blocks first .. last - 1. */
static void put_sums(const layer *m, const place *to, int64_t first, int64_t last, const float *sums) {
    for (int64_t b = first; b < last; b++)
        for (int64_t i = 0; i < m->vectors; i++) {
            float *y = (float *)m->a->y + b * m->outside * RS_V;
            const float *sum = sums + ((b - first) * RS_V * m->vectors + i) * RS_V;
            if (!to[i].lanes) rs_transpose(sum, m->vectors * RS_V, y + to[i].first, to[i].step);
            else {
                float some[RS_V * RS_V];
                rs_transpose(sum, m->vectors * RS_V, some, RS_V);
                for (int64_t n = 0; n < RS_V; n++)
                    if (to[i].lanes[n] >= 0) rs_store(y + to[i].lanes[n], rs_load(some + n * RS_V));
            }
        }
}

/* All filters of a chunk in one block of channels: visits begin .. end - 1. */
typedef struct {
    const rs_args *a;
    const float *lines, *bias;
    float *sums;
    int64_t begin, end;
    int first, last;
} pass;

/* T sums for each filter, SETS of them: those alone would wait for themselves. */
RS_INLINE void visit(const pass *t, const int T, const int SETS) {
    const int32_t *ends = t->a->pack[0], *filters = t->a->pack[1];
    const uint16_t *offset = t->a->pack[2];
    const float *value = t->a->pack[3];
    for (int64_t i = t->begin; i < t->end; i++) {
        float *sum = t->sums + (int64_t)filters[i] * T * RS_V;
        rs_vec acc[4][MOST];
        RS_UNROLL for (int v = 0; v < T; v++)
            acc[0][v] = t->first ? rs_all(t->bias[filters[i]]) : rs_load(sum + v * RS_V);
        RS_UNROLL for (int j = 1; j < SETS; j++) RS_UNROLL for (int v = 0; v < T; v++) acc[j][v] = (rs_vec){0};
        int64_t e = ends[i];
        const int64_t end = ends[i + 1];
        for (; e + 4 <= end; e += 4) {
            uint64_t four; /* offsets by one load: loads are what bounds few sums */
            memcpy(&four, offset + e, sizeof four);
            RS_UNROLL for (int j = 0; j < 4; j++) {
                const float *from = t->lines + (uint16_t)(four >> 16 * j);
                RS_OPAQUE(from);
                const rs_vec w = rs_all(value[e + j]);
                RS_UNROLL for (int v = 0; v < T; v++) acc[j % SETS][v] += w * rs_load(from + v * RS_V);
            }
        }
        for (; e < end; e++)
            RS_UNROLL for (int v = 0; v < T; v++)
                acc[0][v] += rs_all(value[e]) * rs_load(t->lines + offset[e] + v * RS_V);
        RS_UNROLL for (int v = 0; v < T; v++) {
            RS_UNROLL for (int j = 1; j < SETS; j++) acc[0][v] += acc[j][v];
            rs_store(sum + v * RS_V, t->last ? rs_activate(acc[0][v], t->a->activation) : acc[0][v]);
        }
    }
}

static void one(const pass *t) { visit(t, 1, 4); }
static void two(const pass *t) { visit(t, 2, 4); }
static void four(const pass *t) { visit(t, 4, 2); }

void rs_conv2d_csr_columns(const rs_args *a) {
    void (*const columns[])(const pass *) = {one, two, four};
    const layer m = layer_of(a);
    const int64_t k = m.k * RS_V, chunks = rs_ceil(k, m.chunk), size = m.size / RS_V, blocks = rs_ceil(m.c, size);
    _Alignas(64) float lines[ROOM], sums[SUMS];
#pragma omp for collapse(2) schedule(static)
    for (int64_t item = 0; item < m.items; item++)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            place from[MOST], to[MOST];
            int64_t in[MOST * RS_V], out[MOST * RS_V];
            find(&m, item, in, out);
            for (int64_t i = 0; i < m.vectors; i++)
                from[i] = columns_of(in + i * RS_V), to[i] = columns_of(out + i * RS_V);
            const int64_t first = chunk * m.chunk, share = rs_min(m.chunk, k - first);
            for (int64_t b = 0; b < blocks; b++) {
                const int64_t begin = first * blocks + b * share;
                make_lines(&m, from, b * size, rs_min(m.c, (b + 1) * size), lines);
                const pass t = {a, lines, a->bias + first, sums, begin, begin + share, b == 0, b == blocks - 1};
                columns[m.vectors / 2](&t);
            }
            put_sums(&m, to, first / RS_V, (first + share) / RS_V, sums);
        }
}
