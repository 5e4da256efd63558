/* Sparse convolution with blocked channels: vectors of columns or of images, their sums in registers.

       y[n,k,p,q] = activation(bias[k] + sum over stored (k,c,r,s) of  x[n, c, p*st + r - top, q*st + s - left] * value)

   A work item is T vectors of outputs: 1x1, columns (n,p,q) that follow each other; 3x3, a tile of pixels of RS_V
   images. What they read of a channel is a few vectors, its lines, with zeros where a tile reaches into the padding:

       lines   [c][T][RS_V columns]                1x1
               [c][rows][columns][RS_V images]     3x3: (ROWS-1)*st + 3 rows of (COLS-1)*st + 3

   The lines of a block of channels are made from the blocked image by transposing, and stay in the first cache while
   all filters pass by. Stored weight e adds to all T sums, whose lines lie at fixed distances from its own:

       acc[i][j] += value[e] * lines[offset[e] + (i*st*columns + j*st) * RS_V ..]

   Unfinished sums wait in the second cache. Any order of filters will do there: they go by the number of their weights
   in the block, so that the processor guesses right where a loop ends.

   A map of at most 4 pixels is mostly border, so its pixels count as channels: the layer is a matrix (k,p,q) x (c,h,w)
   that holds each weight once for every output which it reaches, and a column is an image. Blocked arrays have just
   that form: channel c, pixel i is number c/V*h*w*V + i*V + c%V of an image.

   Reads      x nchw<V>c;  pack[0] ends int32, pack[1] filters int32: visit i, of one filter of a chunk in one block of
              channels, has weights ends[i] .. ends[i+1];  pack[2] offsets uint16, pack[3] values float32;
              pack[4] int64 {channels in a block, filters in a chunk, T, whether pixels count as channels};
              bias, zeros up to a whole block
   Writes     y nchw<V>c
   Threads    (item, chunk of filters)
   Scratch    on the stack: lines of a block of channels, sums of a chunk of filters
   Cost       n*p*q * nnz multiply-adds, for 3x3 with those of the padding: loads bound them, T + 2 for T. Each line and
              each sum takes part in one transposition, and sums go to the second cache and back once a block */
#include "rs_transpose.h"

enum {
    ROWS = RS_V == 16 ? 4 : 2, /* of a tile at stride 1; as many sums as there are registers for */
    COLS = 4,
    MOST = ROWS * COLS, /* vectors of an item */
    LINES = 45,         /* of a channel, at most: stride 2 */
    ROOM = 1 << 14,     /* numbers: lines of a block; packing_sparse.LINES */
    SUMS = 1 << 16,     /* numbers: sums of a chunk; packing_sparse.SUMS */
};

/* Where the lanes of a vector lie in a blocked image whose first block of channels is meant: `count` of them from
   `first` on at distances `step`, or where `lanes` says. Zeros, or nothing to be written, where there is none. */
typedef struct {
    int64_t first, step, count;
    const int64_t *lanes;
} place;

typedef struct {
    const rs_args *a;
    int64_t c, k, inside, outside; /* blocks of channels and pixels, of the input and the output */
    int64_t size, chunk, vectors, items;
    int columns;
} layer;

RS_INLINE layer layer_of(const rs_args *a) {
    const int64_t *sizes = a->pack[4];
    layer m = {.a = a, .size = sizes[0], .chunk = sizes[1], .vectors = sizes[2]};
    m.c = rs_ceil(a->c, RS_V), m.k = rs_ceil(a->k, RS_V), m.inside = a->h * a->w, m.outside = a->p * a->q;
    if (sizes[3]) m.c *= m.inside, m.k *= m.outside, m.inside = m.outside = 1;
    m.columns = sizes[3] || a->r * a->s == 1;
    if (m.columns) m.items = rs_ceil(a->n * m.outside, m.vectors * RS_V);
    else m.items = rs_ceil(a->n, RS_V) * rs_ceil(a->p, m.vectors / COLS) * rs_ceil(a->q, COLS);
    return m;
}

/* The input pixel of an output pixel's tap, or -1. */
RS_INLINE int64_t input_pixel(const layer *m, int64_t p, int64_t q, int64_t r, int64_t s) {
    const rs_args *a = m->a;
    const int64_t h = p * a->st[0] + r - a->pd[0], w = q * a->st[1] + s - a->pd[1];
    return h < 0 || h >= a->h || w < 0 || w >= a->w ? -1 : h * a->w + w;
}

/* Columns column .. column + RS_V - 1, each where lanes then says. */
static place columns_of(const int64_t *lanes) {
    place at = {.first = lanes[0], .step = lanes[1] - lanes[0], .count = RS_V};
    for (int i = 0; i < RS_V; i++)
        if (lanes[i] < 0 || lanes[i] != at.first + i * at.step) at.lanes = lanes;
    return at;
}

/* An item of the columns' kind: from which numbers, to which. */
static void find_columns(const layer *m, int64_t item, int64_t *in, int64_t *out) {
    const rs_args *a = m->a;
    int64_t column = item * m->vectors * RS_V, n = column / m->outside, pixel = column % m->outside;
    int64_t p = pixel / a->q, q = pixel % a->q;
    for (int64_t i = 0; i < m->vectors * RS_V; i++) {
        int64_t source = m->inside == 1 ? 0 : input_pixel(m, p, q, 0, 0);
        if (n >= a->n) source = pixel = -1;
        in[i] = source < 0 ? -1 : (n * m->c * m->inside + source) * RS_V;
        out[i] = pixel < 0 ? -1 : (n * m->k * m->outside + pixel) * RS_V;
        pixel++, q++;
        if (q == a->q) q = 0, p++;
        if (pixel == m->outside) pixel = p = q = 0, n++;
    }
}

/* One pixel, if there is one, of RS_V images; `image` is the distance between them. */
RS_INLINE place images_of(const layer *m, int64_t group, int64_t pixel, int64_t image) {
    const int64_t n = group * RS_V, count = pixel < 0 ? 0 : rs_min(RS_V, m->a->n - n);
    return (place){.first = n * image + pixel * RS_V, .step = image, .count = count};
}

/* An item of the tiles' kind. Returns the number of lines. */
static int64_t find_tile(const layer *m, int64_t item, place *from, place *to) {
    const rs_args *a = m->a;
    const int64_t rows = m->vectors / COLS, across = rs_ceil(a->q, COLS), tiles = rs_ceil(a->p, rows) * across;
    const int64_t p = item % tiles / across * rows, q = item % across * COLS, group = item / tiles;
    for (int64_t i = 0; i < m->vectors; i++) {
        const int64_t y = p + i / COLS, x = q + i % COLS;
        to[i] = images_of(m, group, y < a->p && x < a->q ? y * a->q + x : -1, m->k * m->outside * RS_V);
    }
    const int64_t down = (rows - 1) * a->st[0] + a->r, along = (COLS - 1) * a->st[1] + a->s;
    for (int64_t i = 0; i < down * along; i++)
        from[i] = images_of(m, group, input_pixel(m, p, q, i / along, i % along), m->c * m->inside * RS_V);
    return down * along;
}

/* The lines of channel blocks first .. last - 1. */
static void make_lines(const layer *m, const place *from, int64_t lines, int64_t first, int64_t last, float *to) {
    for (int64_t b = first; b < last; b++)
        for (int64_t i = 0; i < lines; i++) {
            const float *x = (const float *)m->a->x[0] + b * m->inside * RS_V;
            float *line = to + ((b - first) * RS_V * lines + i) * RS_V;
            if (from[i].count == RS_V && !from[i].lanes)
                rs_transpose(x + from[i].first, from[i].step, line, lines * RS_V);
            else {
                float some[RS_V * RS_V] = {0};
                for (int64_t n = 0; n < from[i].count; n++) {
                    const int64_t at = from[i].lanes ? from[i].lanes[n] : from[i].first + n * from[i].step;
                    if (at >= 0) rs_store(some + n * RS_V, rs_load(x + at));
                }
                rs_transpose(some, RS_V, line, lines * RS_V);
            }
        }
}

/* The sums of filter blocks first .. last - 1. */
static void put_sums(const layer *m, const place *to, int64_t first, int64_t last, const float *sums) {
    for (int64_t b = first; b < last; b++)
        for (int64_t i = 0; i < m->vectors; i++) {
            float *y = (float *)m->a->y + b * m->outside * RS_V;
            const float *sum = sums + ((b - first) * RS_V * m->vectors + i) * RS_V;
            if (to[i].count == RS_V && !to[i].lanes) rs_transpose(sum, m->vectors * RS_V, y + to[i].first, to[i].step);
            else {
                float some[RS_V * RS_V];
                rs_transpose(sum, m->vectors * RS_V, some, RS_V);
                for (int64_t n = 0; n < to[i].count; n++) {
                    const int64_t at = to[i].lanes ? to[i].lanes[n] : to[i].first + n * to[i].step;
                    if (at >= 0) rs_store(y + at, rs_load(some + n * RS_V));
                }
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

/* One stored weight. Lines lie PITCH apart by rows of sums, STEP by columns. */
RS_INLINE void add(const float *from, float value, rs_vec *acc, const int R, const int C, const int PITCH,
                   const int STEP) {
    RS_OPAQUE(from);
    const rs_vec w = rs_all(value);
    RS_UNROLL for (int v = 0; v < R * C; v++) acc[v] += w * rs_load(from + (v / C * PITCH + v % C) * STEP * RS_V);
}

/* R * C sums for each filter, SETS of them where those alone would wait for themselves. */
RS_INLINE void visit(const pass *t, const int R, const int C, const int PITCH, const int STEP, const int SETS) {
    const int32_t *ends = t->a->pack[0], *filters = t->a->pack[1];
    const uint16_t *offset = t->a->pack[2];
    const float *value = t->a->pack[3];
    const int T = R * C;
    for (int64_t i = t->begin; i < t->end; i++) {
        float *sum = t->sums + (int64_t)filters[i] * T * RS_V;
        rs_vec acc[4][MOST];
        RS_UNROLL for (int v = 0; v < T; v++)
            acc[0][v] = t->first ? rs_all(t->bias[filters[i]]) : rs_load(sum + v * RS_V);
        RS_UNROLL for (int j = 1; j < SETS; j++) RS_UNROLL for (int v = 0; v < T; v++) acc[j][v] = (rs_vec){0};
        int64_t e = ends[i];
        const int64_t end = ends[i + 1];
        for (; SETS > 1 && e + 4 <= end; e += 4) { /* sixteen sums have enough to do beside it */
            uint64_t four; /* offsets by one load: loads are what bounds few sums */
            memcpy(&four, offset + e, sizeof four);
            RS_UNROLL for (int j = 0; j < 4; j++)
                add(t->lines + (uint16_t)(four >> 16 * j), value[e + j], acc[j % SETS], R, C, PITCH, STEP);
        }
        for (; e < end; e++) add(t->lines + offset[e], value[e], acc[0], R, C, PITCH, STEP);
        RS_UNROLL for (int v = 0; v < T; v++) {
            RS_UNROLL for (int j = 1; j < SETS; j++) acc[0][v] += acc[j][v];
            rs_store(sum + v * RS_V, t->last ? rs_activate(acc[0][v], t->a->activation) : acc[0][v]);
        }
    }
}

static void columns1(const pass *t) { visit(t, 1, 1, 0, 1, 4); }
static void columns2(const pass *t) { visit(t, 1, 2, 0, 1, 4); }
static void columns4(const pass *t) { visit(t, 1, 4, 0, 1, 2); }
static void tile1(const pass *t) { visit(t, ROWS, COLS, COLS + 2, 1, 1); }
static void tile2(const pass *t) { visit(t, 2, COLS, 2 * COLS + 1, 2, 1); }

void rs_conv2d_csr_images(const rs_args *a) {
    void (*const columns[])(const pass *) = {columns1, columns2, columns4};
    void (*const tiles[])(const pass *) = {tile1, tile2};
    const layer m = layer_of(a);
    void (*const filters)(const pass *) = m.columns ? columns[m.vectors / 2] : tiles[a->st[0] - 1];
    const int64_t k = m.k * RS_V, chunks = rs_ceil(k, m.chunk), size = m.size / RS_V, blocks = rs_ceil(m.c, size);
    _Alignas(64) float lines[ROOM], sums[SUMS];
#pragma omp for collapse(2) schedule(static)
    for (int64_t item = 0; item < m.items; item++)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            place from[LINES], to[MOST];
            int64_t in[MOST * RS_V], out[MOST * RS_V], count = m.vectors;
            if (m.columns) {
                find_columns(&m, item, in, out);
                for (int64_t i = 0; i < count; i++)
                    from[i] = columns_of(in + i * RS_V), to[i] = columns_of(out + i * RS_V);
            } else count = find_tile(&m, item, from, to);
            const int64_t first = chunk * m.chunk, share = rs_min(m.chunk, k - first);
            for (int64_t b = 0; b < blocks; b++) {
                const int64_t begin = first * blocks + b * share;
                make_lines(&m, from, count, b * size, rs_min(m.c, (b + 1) * size), lines);
                const pass t = {a, lines, a->bias + first, sums, begin, begin + share, b == 0, b == blocks - 1};
                filters(&t);
            }
            put_sums(&m, to, first / RS_V, (first + share) / RS_V, sums);
        }
}
