/* Sparse convolution: one broadcast and a few fused multiply-adds for each stored weight.

       y[n,k,p,q] = activation(bias[k] + sum over stored (k,c,r,s) of  xpad[n, c, p*st + r*dl, q*st + s*dl] * value)

   For one filter, T vectors of pixels stay in registers while its stored weights pass by. Weight e finds its pixels at
   planes + offset[e] (rs_planes.h), so the loop knows neither c, r, s nor borders:

       acc[0 .. T-1] += value[e] * planes[offset[e] + pixel ..]

   Channels come in blocks whose planes fit the first cache: all filters use a block before the next one is touched,
   and their unfinished sums wait in y. Where a map has few vectors, SETS of accumulators take every SETS-th weight,
   since T sums alone would wait for themselves.

   Reads      x nchw;  pack[0] ends int32 (blocks*k + 1,): the weights of filter k in channel block b are
              ends[b*k + k] .. ends[b*k + k + 1];  pack[1] offsets int32 (nnz,);  pack[2] values float32 (nnz,);
              pack[3] int64 {blocks};  bias (k,)
   Writes     y nchw
   Scratch    planes of one image
   Threads    (tile of pixels, chunk of filters) in that order
   Cost       n*p*q * nnz multiply-adds; the loads of pixels bound it */
#include "rs_planes.h"

enum { TILE = 8 };

/* One tile of one filter in one block of channels. The first block starts from the bias, the last one activates. */
typedef struct {
    const float *planes, *value;
    const int32_t *offset;
    float *y, bias;
    int64_t begin, end, pixels, activation;
    int first, last;
} job;

RS_INLINE void filter(const job *t, int64_t pixel, const int T, const int SETS) {
    const float *x = t->planes + pixel, *value = t->value;
    const int32_t *offset = t->offset;
    float *y = t->y + pixel;
    const int64_t tail = rs_min(RS_V, t->pixels - pixel - (T - 1) * RS_V); /* pixels in the last vector */
    rs_vec acc[TILE][TILE];
    RS_UNROLL for (int i = 0; i < T; i++)
        acc[0][i] = t->first ? rs_all(t->bias) : rs_load_some(y + i * RS_V, i < T - 1 ? RS_V : tail);
    RS_UNROLL for (int j = 1; j < SETS; j++) RS_UNROLL for (int i = 0; i < T; i++) acc[j][i] = (rs_vec){0};
    int64_t e = t->begin;
    for (; e + SETS <= t->end; e += SETS)
        RS_UNROLL for (int j = 0; j < SETS; j++) {
            const float *from = x + offset[e + j];
            const rs_vec v = rs_all(value[e + j]);
            RS_UNROLL for (int i = 0; i < T; i++) acc[j][i] += v * rs_load(from + i * RS_V);
        }
    for (; SETS > 1 && e < t->end; e++)
        RS_UNROLL for (int i = 0; i < T; i++) acc[0][i] += rs_all(value[e]) * rs_load(x + offset[e] + i * RS_V);
    RS_UNROLL for (int i = 0; i < T; i++) {
        RS_UNROLL for (int j = 1; j < SETS; j++) acc[0][i] += acc[j][i];
        if (t->last) acc[0][i] = rs_activate(acc[0][i], t->activation);
        rs_store_some(y + i * RS_V, acc[0][i], i < T - 1 ? RS_V : tail);
    }
}

void rs_conv2d_csr_planar(const rs_args *a) {
    const int32_t *ends = a->pack[0];
    const int64_t blocks = *(const int64_t *)a->pack[3], pixels = a->p * a->q, vectors = rs_ceil(pixels, RS_V);
    const int64_t tiles = rs_ceil(vectors, TILE);
    /* enough pieces of work for the threads, yet long runs of filters for each block of channels */
    const int64_t size = rs_max(16, rs_ceil(a->k, rs_ceil(16, tiles))), chunks = rs_ceil(a->k, size);
    for (int64_t n = 0; n < a->n; n++) {
        const float *planes = rs_make_planes(a, n);
#pragma omp for collapse(2) schedule(static)
        for (int64_t tile = 0; tile < tiles; tile++)
            for (int64_t chunk = 0; chunk < chunks; chunk++) {
                const int64_t left = rs_min(TILE, vectors - tile * TILE);
                job t = {.planes = planes, .value = a->pack[2], .offset = a->pack[1], .pixels = pixels,
                         .activation = a->activation};
                for (int64_t block = 0; block < blocks; block++) {
                    t.first = block == 0, t.last = block == blocks - 1;
                    for (int64_t k = chunk * size; k < rs_min(a->k, (chunk + 1) * size); k++) {
                        t.begin = ends[block * a->k + k], t.end = ends[block * a->k + k + 1];
                        t.bias = a->bias[k], t.y = (float *)a->y + (n * a->k + k) * pixels;
                        int64_t pixel = tile * TILE * RS_V;
                        if (left == TILE) filter(&t, pixel, TILE, 1);
                        else {
                            if (left & 4) filter(&t, pixel, 4, 2), pixel += 4 * RS_V;
                            if (left & 2) filter(&t, pixel, 2, 4), pixel += 2 * RS_V;
                            if (left & 1) filter(&t, pixel, 1, 4);
                        }
                    }
                }
            }
    }
}
