/* Sparse convolution of many images: a vector is one pixel of RS_V of them, so maps of any size fill it.

       y[n,k,p,q] = activation(bias[k] + sum over stored (k,c,r,s) of  x[n, c, p*st + r - top, q*st + s - left] * value)

   A work item is T vectors of outputs: a tile of pixels of RS_V images (3x3), or any T columns (image group, pixel) in
   a row (1x1). What they read of a channel is a few vectors, its lines, zeros where a tile reaches into the padding:

       lines   [c][rows][columns][RS_V images]     3x3: (ROWS-1)*st + 3 rows of 3*st + 3      1x1: 1 row of T

   Lines of a block of channels are made from the blocked image by transposing, and stay in the first cache while all
   filters pass by. Stored weight e adds to all T sums, whose lines lie at fixed distances from its own:

       acc[i][j] += value[e] * lines[offset[e] + (i*st*columns + j*st) * RS_V ..]

   Unfinished sums wait in a buffer in the second cache. There any order of filters will do: they go by the number of
   their weights in the block, so that the processor guesses where loops end.

   A map of at most 4 pixels is mostly border, so it counts as channels: the layer is a matrix of (k,p,q) x (c,h,w) that
   stores each weight once for every output which it reaches, and has 1x1 maps. Blocked arrays hold just that: channel
   (c/V)*h*w*V + pixel*V + c%V.

   Reads      x nchw<V>c;  pack[0] ends int32, pack[1] filters int32: visit i of a chunk of filters in a block of
              channels is of that filter of the chunk, and has weights ends[i] .. ends[i+1];  pack[2] offsets uint16,
              pack[3] values float32;  pack[4] int64 {channels in a block, filters in a chunk, T, maps are channels};
              bias (k up to whole blocks,)
   Writes     y nchw<V>c
   Threads    (item, chunk of filters)
   Scratch    on the stack: lines of a block of channels, sums of a chunk of filters
   Cost       n*p*q * nnz multiply-adds, and those of padding in 3x3 tiles: loads bound them, T + 2 for T. Beside that each line
              in and each sum out takes part in one transposition, and sums go to the second cache once a block */
#include "rs_transpose.h"

enum {
    ROWS = RS_V == 16 ? 4 : 2, /* of a tile at stride 1; registers decide */
    COLS = 4,
    MOST = ROWS * COLS > 8 ? ROWS * COLS : 8, /* vectors of an item */
    LINES = 64,                               /* of a channel, at most */
    ROOM = 1 << 15,                           /* numbers: lines of a block; packing_images.ROOM */
    SUMS = 1 << 16,                           /* numbers: sums of a chunk; packing_images.SUMS */
};

/* One pixel of some images; below 0 there is none. */
typedef struct {
    int64_t image, count, pixel;
} place;

typedef struct {
    const rs_args *a;
    int64_t c, k, inside, outside;  /* blocks of channels and pixels, of the input and the output */
    int64_t size, chunk, vectors, items;
    int columns;
} layer;

RS_INLINE layer layer_of(const rs_args *a) {
    const int64_t *sizes = a->pack[4], groups = rs_ceil(a->n, RS_V);
    layer m = {.a = a, .size = sizes[0], .chunk = sizes[1], .vectors = sizes[2]};
    m.c = rs_ceil(a->c, RS_V), m.k = rs_ceil(a->k, RS_V), m.inside = a->h * a->w, m.outside = a->p * a->q;
    if (sizes[3]) m.c *= m.inside, m.k *= m.outside, m.inside = m.outside = 1;
    m.columns = sizes[3] || a->r * a->s == 1;
    const int64_t tiles = rs_ceil(a->p, m.vectors / COLS) * rs_ceil(a->q, COLS);
    m.items = m.columns ? rs_ceil(groups * m.outside, m.vectors) : groups * tiles;
    return m;
}

/* The input pixel of an output pixel's tap, or -1. */
RS_INLINE int64_t input_pixel(const layer *m, int64_t p, int64_t q, int64_t r, int64_t s) {
    const rs_args *a = m->a;
    const int64_t h = p * a->st[0] + r - a->pd[0], w = q * a->st[1] + s - a->pd[1];
    return h < 0 || h >= a->h || w < 0 || w >= a->w ? -1 : h * a->w + w;
}

RS_INLINE place group_of(const layer *m, int64_t group, int64_t pixel) {
    const int64_t first = group * RS_V, count = m->a->n - first;
    return (place){first, count < RS_V ? count : RS_V, count > 0 ? pixel : -1};
}

/* Where an item's lines come from and its sums go to. Returns the number of lines. */
static int64_t places_of(const layer *m, int64_t item, place *from, place *to) {
    const rs_args *a = m->a;
    if (m->columns) {
        for (int64_t i = 0; i < m->vectors; i++) {
            const int64_t column = item * m->vectors + i, pixel = column % m->outside;
            const int64_t in = m->inside == 1 ? 0 : input_pixel(m, pixel / a->q, pixel % a->q, 0, 0);
            to[i] = group_of(m, column / m->outside, pixel);
            from[i] = group_of(m, column / m->outside, in);
        }
        return m->vectors;
    }
    const int64_t rows = m->vectors / COLS, across = rs_ceil(a->q, COLS), tiles = rs_ceil(a->p, rows) * across;
    const int64_t p = item % tiles / across * rows, q = item % across * COLS;
    for (int64_t i = 0; i < m->vectors; i++) {
        const int64_t y = p + i / COLS, x = q + i % COLS;
        to[i] = group_of(m, item / tiles, y < a->p && x < a->q ? y * a->q + x : -1);
    }
    const int64_t down = (rows - 1) * a->st[0] + a->r, along = (COLS - 1) * a->st[1] + a->s;
    for (int64_t i = 0; i < down * along; i++)
        from[i] = group_of(m, item / tiles, input_pixel(m, p, q, i / along, i % along));
    return down * along;
}

/* The lines of channel blocks first .. last - 1. */
static void make_lines(const layer *m, const place *from, int64_t lines, int64_t first, int64_t last, float *to) {
    const int64_t image = m->c * m->inside * RS_V;
    for (int64_t b = first; b < last; b++)
        for (int64_t i = 0; i < lines; i++) {
            float *line = to + ((b - first) * RS_V * lines + i) * RS_V, some[RS_V * RS_V] = {0};
            const float *x = some;
            int64_t distance = RS_V;
            if (from[i].pixel >= 0) {
                x = (const float *)m->a->x[0] + from[i].image * image + (b * m->inside + from[i].pixel) * RS_V;
                distance = image;
            }
            if (from[i].pixel >= 0 && from[i].count < RS_V) {
                for (int64_t n = 0; n < from[i].count; n++) memcpy(some + n * RS_V, x + n * image, sizeof(rs_vec));
                x = some, distance = RS_V;
            }
            rs_transpose(x, distance, line, lines * RS_V);
        }
}

/* The sums of filter blocks first .. last - 1. */
static void put_sums(const layer *m, const place *to, int64_t first, int64_t last, const float *sums) {
    const int64_t image = m->k * m->outside * RS_V;
    for (int64_t b = first; b < last; b++)
        for (int64_t i = 0; i < m->vectors; i++) {
            if (to[i].pixel < 0) continue;
            float *y = (float *)m->a->y + to[i].image * image + (b * m->outside + to[i].pixel) * RS_V;
            const float *sum = sums + ((b - first) * RS_V * m->vectors + i) * RS_V;
            if (to[i].count == RS_V) rs_transpose(sum, m->vectors * RS_V, y, image);
            else {
                float some[RS_V * RS_V];
                rs_transpose(sum, m->vectors * RS_V, some, RS_V);
                for (int64_t n = 0; n < to[i].count; n++) memcpy(y + n * image, some + n * RS_V, sizeof(rs_vec));
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

RS_INLINE void visit(const pass *t, const int R, const int C, const int PITCH, const int STEP, const int SETS) {
    enum { TWO = 2 };
    const int32_t *ends = t->a->pack[0], *filters = t->a->pack[1];
    const uint16_t *offset = t->a->pack[2];
    const float *value = t->a->pack[3];
    const int T = R * C;
    for (int64_t i = t->begin; i < t->end; i++) {
        float *sum = t->sums + (int64_t)filters[i] * T * RS_V;
        int64_t e = ends[i];
        const int64_t end = ends[i + 1];
        rs_vec acc[TWO][MOST];
        if (t->first) RS_UNROLL for (int v = 0; v < T; v++) acc[0][v] = rs_all(t->bias[filters[i]]);
        else RS_UNROLL for (int v = 0; v < T; v++) acc[0][v] = rs_load(sum + v * RS_V);
        if (SETS == TWO) RS_UNROLL for (int v = 0; v < T; v++) acc[1][v] = (rs_vec){0};
        for (; e + SETS <= end; e += SETS)
            RS_UNROLL for (int j = 0; j < SETS; j++) {
                const float *from = t->lines + offset[e + j];
                RS_OPAQUE(from);
                const rs_vec w = rs_all(value[e + j]);
                RS_UNROLL for (int v = 0; v < T; v++)
                    acc[j][v] += w * rs_load(from + (v / C * STEP * PITCH + v % C * STEP) * RS_V);
            }
        if (SETS == TWO && e < end) {
            const float *from = t->lines + offset[e];
            const rs_vec w = rs_all(value[e]);
            RS_UNROLL for (int v = 0; v < T; v++)
                acc[0][v] += w * rs_load(from + (v / C * STEP * PITCH + v % C * STEP) * RS_V);
        }
        RS_UNROLL for (int v = 0; v < T; v++) {
            if (SETS == TWO) acc[0][v] += acc[1][v];
            rs_store(sum + v * RS_V, t->last ? rs_activate(acc[0][v], t->a->activation) : acc[0][v]);
        }
    }
}

static void columns8(const pass *t) { visit(t, 1, 8, 0, 1, 1); }
static void columns4(const pass *t) { visit(t, 1, 4, 0, 1, 2); }
static void window1(const pass *t) { visit(t, ROWS, COLS, COLS + 2, 1, 1); }
static void window2(const pass *t) { visit(t, 2, COLS, 2 * COLS + 1, 2, 1); }

void rs_conv2d_csr_images(const rs_args *a) {
    const layer m = layer_of(a);
    void (*const filters)(const pass *) = !m.columns ? a->st[0] == 1 ? window1 : window2
                                          : m.vectors == 8 ? columns8 : columns4;
    const int64_t k = m.k * RS_V, chunks = rs_ceil(k, m.chunk), blocks = rs_ceil(m.c * RS_V, m.size);
    _Alignas(64) float lines[ROOM], sums[SUMS];
#pragma omp for collapse(2) schedule(static)
    for (int64_t item = 0; item < m.items; item++)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            place from[LINES], to[MOST];
            const int64_t count = places_of(&m, item, from, to);
            const int64_t first = chunk * m.chunk, share = rs_min(m.chunk, k - first);
            for (int64_t b = 0; b < blocks; b++) {
                const int64_t c = b * m.size / RS_V, begin = first * blocks + b * share;
                make_lines(&m, from, count, c, rs_min(m.c, c + m.size / RS_V), lines);
                const pass t = {a, lines, a->bias + first, sums, begin, begin + share, b == 0, b == blocks - 1};
#ifndef NOVISIT
                filters(&t);
#endif
            }
            put_sums(&m, to, first / RS_V, (first + share) / RS_V, sums);
        }
}
