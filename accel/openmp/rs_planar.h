/* The loops around a sparse filter: tiles of pixels, chunks of filters, channels in blocks.

   Channels come in blocks whose planes (rs_planes.h) for one tile fit the first cache: all filters of a chunk use a
   block before the next one is made, and their unfinished sums wait in y.

       pack[0]   ends int32 (blocks*k + 1,): visit i in channel block b has the stored weights from ends[b*k + i] to
                 ends[b*k + i + 1]
       pack[1]   offsets uint16 (nnz,): where the pixels of a weight start in the planes of its block
       pack[3]   int64 {channels in a block}
       pack[4]   filters int32 (blocks*k,): whose visit it is. Those of a block are the first half of the filters', then
                 the others', each in the order of their number of weights: small maps take few instructions a weight,
                 and a loop whose end was guessed wrong costs as much as ten
       Threads   (image, tile of pixels, share of the filters) in that order; each makes its own planes */
#ifndef RS_PLANAR_H
#define RS_PLANAR_H

#include "rs_planes.h"
#include "rs_visits.h"

/* One tile of one filter in one block of channels. The first block starts from the bias, the last one activates.
   Planes, y and pixels (how many are left) are those from the tile's first pixel on. */
typedef struct {
    const rs_args *a;
    const float *planes;
    float *y;
    int64_t pixels, k, entry; /* entry: where ends has the visit to filter k in this block */
    int first, last;
} rs_job;

typedef void rs_filter(const rs_job *, int64_t pixel);

/* What was summed so far in vector i of T, and where it goes. */
RS_INLINE int64_t rs_in_vector(const rs_job *t, int64_t pixel, int i) {
    return rs_min(RS_V, t->pixels - pixel - i * RS_V);
}
RS_INLINE rs_vec rs_begin(const rs_job *t, int64_t pixel, int i, const int T) {
    if (t->first) return rs_all(t->a->bias[t->k]);
    return rs_load_some(t->y + pixel + i * RS_V, i < T - 1 ? RS_V : rs_in_vector(t, pixel, i));
}
RS_INLINE void rs_end(const rs_job *t, int64_t pixel, int i, const int T, rs_vec sum) {
    if (t->last) sum = rs_activate(sum, t->a->activation);
    rs_store_some(t->y + pixel + i * RS_V, sum, i < T - 1 ? RS_V : rs_in_vector(t, pixel, i));
}

/* The whole layer, by functions for 8, 4, 2 and 1 vectors of pixels. */
RS_INLINE void rs_planar(const rs_args *a, rs_filter *eight, rs_filter *four, rs_filter *two, rs_filter *one) {
    const int64_t pixels = a->p * a->q, vectors = rs_ceil(pixels, RS_V), tiles = rs_ceil(vectors, RS_TILE);
    const int64_t size = *(const int64_t *)a->pack[3];
    const rs_planes m = rs_planes_of(a);
    /* a share of the filters for each thread where tiles alone do not share out evenly: each makes the planes anew. How
       filters are dealt out changes no sum. */
    const int64_t shares = rs_shares(a->n * tiles), each = rs_ceil(a->k, shares);
    int32_t mine[RS_VISITS];
    _Alignas(64) float buffer[RS_ROOM + (RS_TILE + 1) * RS_V];
#pragma omp for collapse(3) schedule(static)
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t tile = 0; tile < tiles; tile++)
            for (int64_t share = 0; share < shares; share++) {
                const int64_t left = rs_min(RS_TILE, vectors - tile * RS_TILE), start = tile * RS_TILE * RS_V;
                const int64_t row = m.direct ? 0 : start / a->q;
                rs_job t = {.a = a, .pixels = pixels - start};
                for (int64_t c = 0; c < a->c; c += size) {
                    const int64_t block = c / size * a->k;
                    const int32_t *filters = (const int32_t *)a->pack[4] + block;
                    t.first = c == 0, t.last = c + size >= a->c;
                    t.planes = rs_make_planes(a, &m, n, c, rs_min(a->c, c + size), row, buffer) + start - row * a->q;
                    for (int64_t from = 0; from < a->k; from += RS_VISITS) {
                        const int64_t to = rs_min(a->k, from + RS_VISITS);
                        const int64_t count = rs_mine(filters, from, to, share * each, each, mine);
                        for (int64_t i = 0; i < count; i++) {
                            t.entry = block + mine[i], t.k = filters[mine[i]];
                            t.y = (float *)a->y + (n * a->k + t.k) * pixels + start;
                            int64_t pixel = 0;
                            if (left == RS_TILE) eight(&t, pixel);
                            else {
                                if (left & 4) four(&t, pixel), pixel += 4 * RS_V;
                                if (left & 2) two(&t, pixel), pixel += 2 * RS_V;
                                if (left & 1) one(&t, pixel);
                            }
                        }
                    }
                }
            }
}

#endif
