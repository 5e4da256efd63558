/* The input of a sparse convolution whose vectors are one pixel of RS_V images, or of RS_V patches of one image.

   Patches are what an image falls into that is cut into RS_DOWN x RS_ACROSS alike (layout nchw<V>p): lanes that are
   small images of their own, but for what lies beyond their borders. That is their neighbours' pixels: the same vector
   with its lanes moved, and zeros where a patch has no neighbour.

   A work item is T vectors of outputs: a tile of pixels, T pixels that follow each other (1x1), or T blocks of images.
   What they read of a channel is a few vectors, its lines, with zeros where a tile reaches into the padding:

       TILE    [c][(rows-1)*st + 3][(cols-1)*st + 3][RS_V]     rows, cols of a tile: 4x4; 2x8 on large maps, whose
                                                channels lie at distances of powers of two and so take each other's
                                                places in the caches; less at stride 2 and on small patches
       WHOLE   [c][ROWS + 1][COLS + 1][RS_V]    a map no larger than a tile: the zeros right of a row are those left of
                                                the next, those below a channel are those above the next
       POINTS  [c][T][RS_V]                     1x1
       MAPS    [c][T][RS_V]                     a map of at most 4 pixels is mostly border, so its pixels count as
                                                channels: a matrix (k,p,q) x (c,h,w) that holds each weight once for
                                                every output which it reaches

   Lines of a block of channels are copied together and stay in the first cache while all filters pass by. */
#ifndef RS_LINES_H
#define RS_LINES_H

#include "rs.h"

enum { TILE, WHOLE, POINTS, MAPS }; /* packing_images.Batch.kind */
enum {
    ROWS = RS_V == 16 ? 4 : 2, /* of a tile at stride 1; as many sums as there are registers for */
    COLS = 4,
    LONG = 8,
    MOST = ROWS * COLS, /* vectors of an item */
    LINES = 45,         /* of a channel, at most: stride 2 */
    BEHIND = COLS + 2,  /* lines of zeros behind the last channel of a WHOLE block */
};

/* An image is here RS_V images, or patches, with their pixels side by side, as rs_args has it. */
typedef struct {
    const rs_args *a;
    int64_t c, k, inside, outside; /* channels and pixels, of the input and the output */
    int64_t size, chunk, rows, cols, kind, images, patches; /* pack[4] */
    int64_t vectors, items, runs, tall, wide; /* of a tile; tiles in a row; rows and columns of its lines */
} layer;

RS_INLINE layer layer_of(const rs_args *a) {
    const int64_t *s = a->pack[4];
    layer m = {.a = a, .size = s[0], .chunk = s[1], .rows = s[2], .cols = s[3], .kind = s[4], .images = s[5]};
    m.patches = s[6];
    m.c = a->c / RS_V, m.k = a->k / RS_V, m.inside = a->h * a->w, m.outside = a->p * a->q;
    m.vectors = m.rows * m.cols, m.tall = 1, m.wide = m.vectors;
    if (m.kind == MAPS) {
        m.c *= m.inside, m.k *= m.outside, m.inside = m.outside = 1;
        m.items = rs_ceil(a->n, m.vectors);
    } else if (m.kind == POINTS) {
        m.runs = rs_ceil(m.outside, m.vectors), m.items = a->n * m.runs;
    } else {
        m.runs = rs_ceil(a->q, m.cols), m.items = a->n * m.runs * rs_ceil(a->p, m.rows);
        m.tall = m.kind == WHOLE ? ROWS + 1 : (m.rows - 1) * a->st[0] + a->r;
        m.wide = m.kind == WHOLE ? COLS + 1 : (m.cols - 1) * a->st[1] + a->s;
    }
    return m;
}

/* Patches that lie so many rows and columns of patches from each one: the lanes to take, and whether there are any. */
typedef struct {
    rs_ivec lane, there;
} beside;

RS_INLINE beside beside_of(int down, int across) {
    beside b;
    for (int i = 0; i < RS_V; i++) {
        const int y = i / RS_ACROSS + down, x = i % RS_ACROSS + across;
        b.lane[i] = i + down * RS_ACROSS + across;
        b.there[i] = y >= 0 && y < RS_DOWN && x >= 0 && x < RS_ACROSS ? -1 : 0;
    }
    return b;
}

/* A line, where it is in the first channel, and of which neighbours it is. */
typedef struct {
    int64_t line, from, beside;
} line_at;

/* A work item: its lines, and where its sums go of the first filter. */
typedef struct {
    int64_t count, beyond; /* lines that are neither padding nor neighbours'; neighbours' */
    line_at lines[LINES], borders[LINES];
    int64_t to[MOST];    /* -1 where there is nothing to be written */
    rs_ivec lanes[MOST]; /* those of images that there are */
} place;

RS_INLINE void put_line(const layer *m, place *at, int64_t line, int64_t group, int64_t h, int64_t w) {
    const rs_args *a = m->a;
    const int64_t down = (h >= a->h) - (h < 0), across = (w >= a->w) - (w < 0);
    const int64_t from = (group * m->c * m->inside + (h - down * a->h) * a->w + w - across * a->w) * RS_V;
    if (!down && !across) at->lines[at->count++] = (line_at){line, from, 0};
    else if (m->patches) at->borders[at->beyond++] = (line_at){line, from, 3 * (down + 1) + across + 1};
}

RS_INLINE void put_sum(const layer *m, place *at, int64_t i, int64_t group, int64_t pixel) {
    at->to[i] = pixel < 0 || group >= m->a->n ? -1 : (group * m->k * m->outside + pixel) * RS_V;
    for (int n = 0; n < RS_V; n++) at->lanes[i][n] = group * RS_V + n < m->images ? -1 : 0;
}

static void find(const layer *m, int64_t item, place *at) {
    const rs_args *a = m->a;
    at->count = at->beyond = 0;
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
static void clear(const layer *m, const place *at, float *to) {
    const int64_t lines = m->tall * m->wide;
    if (at->count + at->beyond < lines) memset(to, 0, sizeof(float) * rs_min(m->size, m->c) * lines * RS_V);
    if (m->kind == WHOLE) memset(to + m->size * lines * RS_V, 0, sizeof(float) * BEHIND * RS_V);
}

/* The lines of channels first .. last - 1. */
static void make_lines(const layer *m, const place *at, const beside *neighbours, int64_t first, int64_t last,
                       float *to) {
    for (int64_t c = first; c < last; c++, to += m->tall * m->wide * RS_V) {
        const float *x = (const float *)m->a->x[0] + c * m->inside * RS_V;
        for (int64_t i = 0; i < at->count; i++)
            rs_store(to + at->lines[i].line * RS_V, rs_load(x + at->lines[i].from));
        for (int64_t i = 0; i < at->beyond; i++) {
            const beside *b = neighbours + at->borders[i].beside;
            const rs_vec moved = rs_look_up(rs_load(x + at->borders[i].from), b->lane);
            rs_store(to + at->borders[i].line * RS_V, (rs_vec)((rs_ivec)moved & b->there));
        }
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
        __builtin_prefetch(t->x + t->at->lines[t->line].from);
        if (++t->line == t->at->count) t->line = 0, t->x += t->channel;
    }
}

#endif
