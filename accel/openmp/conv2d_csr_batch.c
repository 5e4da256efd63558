/* Sparse convolution of images, or patches of one, that lie side by side: vectors of one pixel, sums in registers.

       y[n,k,p,q] = activation(bias[k] + sum over stored (k,c,r,s) of  x[n, c, p*st + r - top, q*st + s - left] * value)

   What vectors and lines are, and which of them a work item has, stands in rs_lines.h. Stored weight e adds to all T
   sums, whose lines lie at fixed distances from its own:

       acc[i][j] += value[e] * lines[offset[e] + (i*PITCH + j)*st * RS_V ..]

   Unfinished sums wait in the second cache. Any order of filters will do there: they go by the number of their weights
   in the block, so that the processor guesses right where a loop ends.

   Reads      x nchw<V>n or nchw<V>p;  pack[0] ends int32, pack[1] filters int32: visit i, of one filter of a chunk in
              one block of channels, has weights ends[i] .. ends[i+1];  pack[2] offsets uint16, pack[3] values float32;
              pack[4] int64 {channels in a block, filters in a chunk, rows and columns of a tile, kind, images, whether
              lanes are patches};  bias (k,), of MAPS (k,p,q)
   Writes     y, in the same layout
   Threads    (item, chunk of filters, share of its filters): shares where items alone do not share out evenly
   Scratch    on the stack: lines of a block of channels, sums of a chunk of filters
   Cost       n*p*q * nnz multiply-adds, but for MAPS with those of the padding: loads bound them, T + 2 for T. Sums go
              to the second cache and back once a block */
#include "rs_lines.h"
#include "rs_visits.h"

enum {
    ROOM = 1 << 14, /* numbers: lines of a block; packing_images.ROOM */
    SUMS = 1 << 16, /* numbers: sums of a chunk; packing_images.SUMS */
};

/* Filters of a chunk in one block of channels: `count` visits. y and bias start at the chunk's first filter. */
typedef struct {
    const rs_args *a;
    const place *at;
    const float *lines, *bias;
    float *sums, *y;
    const int32_t *visits;
    int64_t count, filter; /* numbers from one filter's outputs to the next one's */
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
RS_INLINE void visit(pass *t, const int R, const int C, const int PITCH, const int STEP, const int SETS) {
    const int32_t *ends = t->a->pack[0], *filters = t->a->pack[1];
    const uint16_t *offset = t->a->pack[2];
    const float *value = t->a->pack[3];
    const int T = R * C;
    fetch next = t->next;
    for (int64_t n = 0; n < t->count; n++) {
        const int64_t i = t->visits[n];
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
    t->next = next;
}

static void one(pass *t) { visit(t, 1, 1, 0, 1, 4); }
static void two(pass *t) { visit(t, 1, 2, 0, 1, 4); }
static void four(pass *t) { visit(t, 1, 4, 0, 1, 2); }
static void eight(pass *t) { visit(t, 1, 8, 0, 1, 1); }
static void tile1(pass *t) { visit(t, ROWS, COLS, COLS + 2, 1, 1); }
static void tile2(pass *t) { visit(t, 2, COLS, 2 * COLS + 1, 2, 1); }
static void wide(pass *t) { visit(t, MOST / LONG, LONG, LONG + 2, 1, 1); }
static void square1(pass *t) { visit(t, 2, 2, 4, 1, 2); }
static void square2(pass *t) { visit(t, 2, 2, 5, 2, 2); }
static void whole(pass *t) { visit(t, ROWS, COLS, COLS + 1, 1, 1); }

RS_INLINE void (*visitor(const layer *m))(pass *) {
    const int fast = m->a->st[0] == 1;
    if (m->kind == WHOLE) return whole;
    if (m->kind != TILE || m->vectors == 1)
        return m->vectors == 1 ? one : m->vectors == 2 ? two : m->vectors == 4 ? four : eight;
    if (m->cols == LONG) return wide;
    if (m->cols == 2) return fast ? square1 : square2;
    return fast ? tile1 : tile2;
}

void rs_conv2d_csr_batch(const rs_args *a) {
    const layer m = layer_of(a);
    void (*const filters)(pass *) = visitor(&m);
    const int64_t chunks = rs_ceil(m.k, m.chunk), blocks = rs_ceil(m.c, m.size);
    const int64_t shares = rs_shares(m.items * chunks);
    beside neighbours[9];
    for (int i = 0; m.patches && i < 9; i++) neighbours[i] = beside_of(i / 3 - 1, i % 3 - 1);
    int32_t mine[RS_VISITS];
    _Alignas(64) float buffer[ROOM], sums[SUMS];
#pragma omp for collapse(3) schedule(static)
    for (int64_t item = 0; item < m.items; item++)
        for (int64_t chunk = 0; chunk < chunks; chunk++)
            for (int64_t share = 0; share < shares; share++) {
                place at, after;
                find(&m, item, &at);
                if (!m.patches) find(&m, rs_min(item + 1, m.items - 1), &after);
                clear(&m, &at, buffer);
                const int64_t first = chunk * m.chunk, many = rs_min(m.chunk, m.k - first);
                const int64_t each = rs_ceil(many, shares);
                for (int64_t b = 0; b < blocks; b++) {
                    const int64_t begin = first * blocks + b * many;
                    make_lines(&m, &at, neighbours, b * m.size, rs_min(m.c, (b + 1) * m.size), buffer);
                    const int last = b == blocks - 1;
                    const place *then = last ? &after : &at;
                    pass t = {
                        .a = a, .at = &at, .lines = buffer, .bias = a->bias + first, .sums = sums, .visits = mine,
                        .y = (float *)a->y + first * m.outside * RS_V, .filter = m.outside * RS_V,
                        .first = b == 0, .last = last,
                        .next = {
                            .at = then, .x = (const float *)a->x[0] + (last ? 0 : b + 1) * m.size * m.inside * RS_V,
                            .channel = m.inside * RS_V,
                            .each = m.patches ? 0 : rs_ceil(rs_min(m.size, m.c) * then->count, each),
                        },
                    };
                    for (int64_t from = begin; from < begin + many; from += RS_VISITS) {
                        const int64_t to = rs_min(begin + many, from + RS_VISITS);
                        t.count = rs_mine(a->pack[1], from, to, share * each, each, mine);
                        filters(&t);
                    }
                }
            }
}
