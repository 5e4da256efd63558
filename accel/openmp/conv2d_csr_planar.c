/* Sparse convolution: one broadcast and a few fused multiply-adds for each stored weight.

       y[n,k,p,q] = activation(bias[k] + sum over stored (k,c,r,s) of  xpad[n, c, p*st + r*dl, q*st + s*dl] * value)

   For one filter, T vectors of neighbouring pixels stay in registers while its stored weights pass by; weight j finds
   its pixels at planes + offset[j] (rs_planes.h), so the loop knows neither c, r, s nor borders:

       acc[0..T-1] += value[j] * planes[offset[j] + pixel ..]

   Where the map has fewer than T vectors, SETS of accumulators take every SETS-th weight, since T sums alone would
   wait for themselves.

   Reads      x nchw;  pack[0] indptr int32 (k + 1,), pack[1] offsets int32 (nnz,), pack[2] values float32 (nnz,);  bias
   Writes     y nchw
   Scratch    planes of one image
   Threads    (tile of pixels, filter) in that order, so that the planes of a tile stay in the cache
   Cost       n*p*q * nnz multiply-adds; the loads of pixels bound it */
#include "rs_planes.h"

RS_INLINE void filter(const rs_args *a, const float *planes, float *y, int64_t k, int64_t pixel, const int T, const int SETS) {
    const int32_t *indptr = a->pack[0], *offset = a->pack[1];
    const float *value = a->pack[2];
    rs_vec acc[8][16];
    RS_UNROLL for (int j = 0; j < SETS; j++) RS_UNROLL for (int i = 0; i < T; i++) acc[j][i] = rs_all(j ? 0 : a->bias[k]);
    int64_t e = indptr[k];
    const int64_t end = indptr[k + 1];
    for (; e + SETS <= end; e += SETS)
        RS_UNROLL for (int j = 0; j < SETS; j++) {
            const float *x = planes + offset[e + j] + pixel;
            const rs_vec v = rs_all(value[e + j]);
            RS_UNROLL for (int i = 0; i < T; i++) acc[j][i] += v * rs_load(x + i * RS_V);
        }
    for (; e < end; e++) {
        const float *x = planes + offset[e] + pixel;
        RS_UNROLL for (int i = 0; i < T; i++) acc[0][i] += rs_all(value[e]) * rs_load(x + i * RS_V);
    }
    RS_UNROLL for (int i = 0; i < T; i++) {
        RS_UNROLL for (int j = 1; j < SETS; j++) acc[0][i] += acc[j][i];
        rs_store_pixels(y, pixel + i * RS_V, a->p * a->q, rs_activate(acc[0][i], a->activation));
    }
}

#ifndef TW
#define TW 8
#define SW 2
#endif
void rs_conv2d_csr_planar(const rs_args *a) {
    const int64_t pixels = a->p * a->q, vectors = rs_ceil(pixels, RS_V);
    const int64_t t = vectors >= TW ? TW : vectors >= 4 ? 4 : vectors >= 2 ? 2 : 1, tiles = rs_ceil(vectors, t);
    for (int64_t n = 0; n < a->n; n++) {
        const float *planes = rs_planes(a, n);
        float *y = (float *)a->y + n * a->k * pixels;
#pragma omp for collapse(2) schedule(static)
        for (int64_t tile = 0; tile < tiles; tile++)
            for (int64_t k = 0; k < a->k; k++) {
                /* the last tile is moved back to end with the plane: some pixels are computed twice, alike */
                const int64_t pixel = rs_min(tile * t, vectors - t) * RS_V;
                float *plane = y + k * pixels;
                if (t == TW) filter(a, planes, plane, k, pixel, TW, SW);
                else if (t == 4) filter(a, planes, plane, k, pixel, 4, 4);
                else if (t == 2) filter(a, planes, plane, k, pixel, 2, 4);
                else filter(a, planes, plane, k, pixel, 1, 8);
            }
    }
}
