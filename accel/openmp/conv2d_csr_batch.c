/* Sparse convolution of images that lie side by side: vectors of one pixel of RS_V images, their sums in registers.

       y[n,k,p,q] = activation(bias[k] + sum over stored (k,c,r,s) of  x[n, c, p*st + r - top, q*st + s - left] * value)

   A work item is T vectors of outputs: a tile of pixels, T pixels that follow each other (1x1), or T blocks of images.
   What they read of a channel is a few vectors, its lines, with zeros where a tile reaches into the padding:

       TILE    [c][(ROWS-1)*st + 3][(COLS-1)*st + 3][RS_V]
       WIDE    the same with rows of LONG pixels: longer pieces of large maps, whose channels lie at distances of powers
               of two and so take each other's places in the caches
       WHOLE   [c][ROWS + 1][COLS + 1][RS_V]    a map no larger than a tile: the zeros right of a row are those left of
                                                the next, those below a channel are those above the next
       POINTS  [c][T][RS_V]                     1x1
       MAPS    [c][T][RS_V]                     a map of at most 4 pixels is mostly border, so its pixels count as
                                                channels: a matrix (k,p,q) x (c,h,w) that holds each weight once for
                                                every output which it reaches

   The lines of a block of channels are copied together and stay in the first cache while all filters pass by. Stored
   weight e adds to all T sums, whose lines lie at fixed distances from its own:

       acc[i][j] += value[e] * lines[offset[e] + (i*PITCH + j)*st * RS_V ..]

   Unfinished sums wait in the second cache. Any order of filters will do there: they go by the number of their weights
   in the block, so that the processor guesses right where a loop ends.

   Reads      x nchw<V>n;  pack[0] ends int32, pack[1] filters int32: visit i, of one filter of a chunk in one block of
              channels, has weights ends[i] .. ends[i+1];  pack[2] offsets uint16, pack[3] values float32;
              pack[4] int64 {channels in a block, filters in a chunk, T, kind, images};  bias (k,), of MAPS (k,p,q)
   Writes     y nchw<V>n
   Threads    (item, chunk of filters)
   Scratch    on the stack: lines of a block of channels, sums of a chunk of filters
   Cost       n*p*q * nnz multiply-adds, but for MAPS with those of the padding: loads bound them, T + 2 for T. Sums go
              to the second cache and back once a block */
#include "rs.h"

enum { TILE, WIDE, WHOLE, POINTS, MAPS }; /* packing_images.Batch.kind */
enum {
    ROWS = RS_V == 16 ? 4 : 2, /* of a tile at stride 1; as many sums as there are registers for */
    COLS = 4,
    LONG = 8,
    MOST = ROWS * COLS, /* vectors of an item */
    LINES = 45,         /* of a channel, at most: stride 2 */
    BEHIND = COLS + 2,  /* lines of zeros behind the last channel of a WHOLE block */
    ROOM = 1 << 14,     /* numbers: lines of a block; packing_images.ROOM */
    SUMS = 1 << 16,     /* numbers: sums of a chunk; packing_images.SUMS */
};

/* An image is here RS_V images with their pixels side by side, as rs_args has it. */
typedef struct {
    const rs_args *a;
    int64_t c, k, inside, outside; /* channels and pixels, of the input and the output */
    int64_t size, chunk, vectors, kind, images, items;
    int64_t rows, cols, runs, tall, wide; /* of a tile; tiles in a row; rows and columns of its lines */
} layer;

RS_INLINE layer layer_of(const rs_args *a) {
    const int64_t *sizes = a->pack[4];
    layer m = {.a = a, .size = sizes[0], .chunk = sizes[1], .vectors = sizes[2], .kind = sizes[3], .images = sizes[4]};
    m.c = a->c / RS_V, m.k = a->k / RS_V, m.inside = a->h * a->w, m.outside = a->p * a->q;
    if (m.kind == MAPS) {
        m.c *= m.inside, m.k *= m.outside, m.inside = m.outside = 1;
        m.items = rs_ceil(a->n, m.vectors);
        return m;
    }
    if (m.kind == POINTS) {
        m.runs = rs_ceil(m.outside, m.vectors), m.items = a->n * m.runs;
        return m;
    }
    m.cols = m.kind == WIDE ? LONG : COLS, m.rows = m.vectors / m.cols, m.runs = rs_ceil(a->q, m.cols);
    m.tall = m.kind == WHOLE ? ROWS + 1 : (m.rows - 1) * a->st[0] + a->r;
    m.wide = m.kind == WHOLE ? COLS + 1 : (m.cols - 1) * a->st[1] + a->s;
    m.items = a->n * m.runs * rs_ceil(a->p, m.rows);
    return m;
}

/* A work item: where its lines are in the first channel, where its sums go of the first filter. */
typedef struct {
    int64_t count, line[LINES], from[LINES]; /* lines that are not padding */
    int64_t to[MOST];                        /* -1 where there is nothing to be written */
    rs_ivec lanes[MOST];                     /* those of images that there are */
} place;

RS_INLINE void put_line(const layer *m, place *at, int64_t line, int64_t group, int64_t h, int64_t w) {
    const rs_args *a = m->a;
    if (h < 0 || h >= a->h || w < 0 || w >= a->w) return;
    at->line[at->count] = line, at->from[at->count++] = (group * m->c * m->inside + h * a->w + w) * RS_V;
}

RS_INLINE void put_sum(const layer *m, place *at, int64_t i, int64_t group, int64_t pixel) {
    at->to[i] = pixel < 0 || group >= m->a->n ? -1 : (group * m->k * m->outside + pixel) * RS_V;
    for (int n = 0; n < RS_V; n++) at->lanes[i][n] = group * RS_V + n < m->images ? -1 : 0;
}

static void find(const layer *m, int64_t item, place *at) {
    const rs_args *a = m->a;
    at->count = 0;
    if (m->kind == MAPS) {
        for (int64_t i = 0; i < m->vectors; i++) {
            const int64_t group = item * m->vectors + i;
            if (group < a->n) put_line(m, at, i, group, 0, 0);
            put_sum(m, at, i, group, 0);
        }
        return;
    }
    if (m->kind == POINTS) {
        const int64_t group = item / m->runs, first = item % m->runs * m->vectors;
        for (int64_t i = 0; i < m->vectors; i++) {
            const int64_t pixel = first + i < m->outside ? first + i : -1;
            if (pixel >= 0)
                put_line(m, at, i, group, pixel / a->q * a->st[0] - a->pd[0], pixel % a->q * a->st[1] - a->pd[1]);
            put_sum(m, at, i, group, pixel);
        }
        return;
    }
    const int64_t tiles = m->items / a->n, group = item / tiles;
    const int64_t p = item % tiles / m->runs * m->rows, q = item % m->runs * m->cols;
    for (int64_t i = 0; i < m->vectors; i++) {
        const int64_t y = p + i / m->cols, x = q + i % m->cols;
        put_sum(m, at, i, group, y < a->p && x < a->q ? y * a->q + x : -1);
    }
    for (int64_t i = 0; i < m->tall * m->wide; i++)
        put_line(m, at, i, group, p * a->st[0] - a->pd[0] + i / m->wide, q * a->st[1] - a->pd[1] + i % m->wide);
}

/* Zeros for the padding: no block of channels writes there. */
static void clear(const layer *m, const place *at, int64_t lines, float *to) {
    if (at->count < lines) memset(to, 0, sizeof(float) * rs_min(m->size, m->c) * lines * RS_V);
    if (m->kind == WHOLE) memset(to + m->size * lines * RS_V, 0, sizeof(float) * BEHIND * RS_V);
}

/* The lines of channels first .. last - 1. */
static void make_lines(const layer *m, const place *at, int64_t lines, int64_t first, int64_t last, float *to) {
    for (int64_t c = first; c < last; c++, to += lines * RS_V) {
        const float *x = (const float *)m->a->x[0] + c * m->inside * RS_V;
        for (int64_t i = 0; i < at->count; i++) rs_store(to + at->line[i] * RS_V, rs_load(x + at->from[i]));
    }
}

/* Lines to be copied next, fetched a few at each visit: copies alone would wait for each of them. */
typedef struct {
    const place *at;
    const float *x;
    int64_t channel, each, line; /* numbers of a channel of x; lines a visit; the next one of the channel */
} fetch;

RS_INLINE void fetch_some(fetch *t) {
    for (int64_t i = 0; i < t->each; i++) {
        __builtin_prefetch(t->x + t->at->from[t->line]);
        if (++t->line == t->at->count) t->line = 0, t->x += t->channel;
    }
}

/* All filters of a chunk in one block of channels: visits begin .. end - 1. y and bias start at its first filter. */
typedef struct {
    const rs_args *a;
    const place *at;
    const float *lines, *bias;
    float *sums, *y;
    int64_t begin, end, filter; /* numbers from one filter's outputs to the next one's */
    int first, last;
    fetch next;
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
    fetch next = t->next;
    for (int64_t i = t->begin; i < t->end; i++) {
        fetch_some(&next);
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
        RS_UNROLL for (int j = 1; j < SETS; j++) RS_UNROLL for (int v = 0; v < T; v++) acc[0][v] += acc[j][v];
        if (!t->last) {
            RS_UNROLL for (int v = 0; v < T; v++) rs_store(sum + v * RS_V, acc[0][v]);
            continue;
        }
        float *y = t->y + filters[i] * t->filter;
        RS_UNROLL for (int v = 0; v < T; v++) {
            const rs_vec done = rs_select(t->at->lanes[v], rs_activate(acc[0][v], t->a->activation), (rs_vec){0});
            if (t->at->to[v] >= 0) rs_store(y + t->at->to[v], done);
        }
    }
}

static void one(const pass *t) { visit(t, 1, 1, 0, 1, 4); }
static void two(const pass *t) { visit(t, 1, 2, 0, 1, 4); }
static void four(const pass *t) { visit(t, 1, 4, 0, 1, 2); }
static void eight(const pass *t) { visit(t, 1, 8, 0, 1, 1); }
static void tile1(const pass *t) { visit(t, ROWS, COLS, COLS + 2, 1, 1); }
static void tile2(const pass *t) { visit(t, 2, COLS, 2 * COLS + 1, 2, 1); }
static void wide(const pass *t) { visit(t, MOST / LONG, LONG, LONG + 2, 1, 1); }
static void whole(const pass *t) { visit(t, ROWS, COLS, COLS + 1, 1, 1); }

void rs_conv2d_csr_batch(const rs_args *a) {
    void (*const rows[])(const pass *) = {[1] = one, [2] = two, [4] = four, [8] = eight};
    const layer m = layer_of(a);
    const int row = m.kind == MAPS || m.kind == POINTS;
    void (*const tiles[])(const pass *) = {a->st[0] == 1 ? tile1 : tile2, wide, whole};
    void (*const filters)(const pass *) = row ? rows[m.vectors] : tiles[m.kind];
    const int64_t lines = row ? m.vectors : m.tall * m.wide;
    const int64_t chunks = rs_ceil(m.k, m.chunk), blocks = rs_ceil(m.c, m.size);
    _Alignas(64) float buffer[ROOM], sums[SUMS];
#pragma omp for collapse(2) schedule(static)
    for (int64_t item = 0; item < m.items; item++)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            place at, after;
            find(&m, item, &at);
            find(&m, rs_min(item + 1, m.items - 1), &after);
            clear(&m, &at, lines, buffer);
            const int64_t first = chunk * m.chunk, share = rs_min(m.chunk, m.k - first);
            for (int64_t b = 0; b < blocks; b++) {
                const int64_t begin = first * blocks + b * share;
                make_lines(&m, &at, lines, b * m.size, rs_min(m.c, (b + 1) * m.size), buffer);
                const int last = b == blocks - 1;
                const place *then = last ? &after : &at;
                const fetch next = {
                    .at = then, .x = (const float *)a->x[0] + (last ? 0 : b + 1) * m.size * m.inside * RS_V,
                    .channel = m.inside * RS_V, .each = rs_ceil(rs_min(m.size, m.c) * then->count, share),
                };
                const pass t = {
                    .a = a, .at = &at, .lines = buffer, .bias = a->bias + first, .sums = sums,
                    .y = (float *)a->y + first * m.outside * RS_V, .begin = begin, .end = begin + share,
                    .filter = m.outside * RS_V, .first = b == 0, .last = last, .next = next,
                };
                filters(&t);
            }
        }
}
