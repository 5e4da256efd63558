/* Sparse convolution: one broadcast and a few fused multiply-adds for each stored weight.

       y[n,k,p,q] = activation(bias[k] + sum over stored (k,c,r,s) of  xpad[n, c, p*st + r*dl, q*st + s*dl] * value)

   For one filter, T vectors of pixels stay in registers while its stored weights pass by. Weight e finds its pixels at
   planes + offset[e] (rs_planes.h), so the loop knows neither c, r, s nor borders:

       acc[0 .. T-1] += value[e] * planes[offset[e] + pixel ..]

   Where a map has few vectors, SETS of accumulators take every SETS-th weight: T sums alone would wait for themselves.
   The loops around it are in rs_planar.h.

   Reads      x nchw;  pack[0] ends (rs_planar.h), pack[1] offsets uint16 (nnz,), pack[2] values float32 (nnz,),
              pack[3], pack[4] (rs_planar.h);  bias (k,)
   Writes     y nchw
   Scratch    on the stack: planes of one tile and block of channels
   Cost       n*p*q * nnz multiply-adds; the loads of pixels bound it */
#include "rs_planar.h"

RS_INLINE void filter(const rs_job *t, int64_t pixel, const int T, const int SETS) {
    const int32_t *ends = (const int32_t *)t->a->pack[0] + t->entry;
    const uint16_t *offset = t->a->pack[1];
    const float *x = t->planes + pixel, *value = t->a->pack[2];
    rs_vec acc[4][RS_TILE];
    RS_UNROLL for (int i = 0; i < T; i++) acc[0][i] = rs_begin(t, pixel, i, T);
    RS_UNROLL for (int j = 1; j < SETS; j++) RS_UNROLL for (int i = 0; i < T; i++) acc[j][i] = (rs_vec){0};
    int64_t e = ends[0];
    const int64_t end = ends[1];
    for (; e + 4 <= end; e += 4) {
        uint64_t four; /* offsets by one load: loads are what bounds this loop */
        memcpy(&four, offset + e, sizeof four);
        RS_UNROLL for (int j = 0; j < 4; j++) {
            const float *from = x + (uint16_t)(four >> 16 * j);
            RS_OPAQUE(from);
            const rs_vec v = rs_all(value[e + j]);
            RS_UNROLL for (int i = 0; i < T; i++) acc[j % SETS][i] += v * rs_load(from + i * RS_V);
        }
    }
    for (; e < end; e++)
        RS_UNROLL for (int i = 0; i < T; i++) acc[0][i] += rs_all(value[e]) * rs_load(x + offset[e] + i * RS_V);
    RS_UNROLL for (int i = 0; i < T; i++) {
        RS_UNROLL for (int j = 1; j < SETS; j++) acc[0][i] += acc[j][i];
        rs_end(t, pixel, i, T, acc[0][i]);
    }
}

/* A map of four pixels: narrow vectors load nothing beyond it. */
typedef float rs_four __attribute__((vector_size(16)));
typedef float rs_four_any __attribute__((vector_size(16), aligned(4), may_alias));

RS_INLINE void small(const rs_job *t) {
    enum { SETS = 8 };
    const int32_t *ends = (const int32_t *)t->a->pack[0] + t->entry;
    const uint16_t *offset = t->a->pack[1];
    const float *x = t->planes, *value = t->a->pack[2];
    rs_four acc[SETS] = {{0}};
    int64_t e = ends[0];
    const int64_t stop = ends[1];
    for (; e + SETS <= stop; e += SETS) {
        uint64_t four[2];
        memcpy(four, offset + e, sizeof four);
        RS_UNROLL for (int j = 0; j < SETS; j++)
            acc[j] += value[e + j] * *(const rs_four_any *)(x + (uint16_t)(four[j / 4] >> 16 * (j % 4)));
    }
    for (; e < stop; e++) acc[0] += value[e] * *(const rs_four_any *)(x + offset[e]);
    RS_UNROLL for (int j = 1; j < SETS; j++) acc[0] += acc[j];
    if (t->first) acc[0] += t->a->bias[t->k];
    else acc[0] += *(const rs_four_any *)t->y;
    rs_vec sum = {0};
    memcpy(&sum, &acc[0], sizeof acc[0]);
    if (t->last) sum = rs_activate(sum, t->a->activation);
    memcpy(t->y, &sum, sizeof acc[0]);
}

static void eight(const rs_job *t, int64_t pixel) { filter(t, pixel, 8, 1); }
static void four(const rs_job *t, int64_t pixel) { filter(t, pixel, 4, 2); }
static void two(const rs_job *t, int64_t pixel) { filter(t, pixel, 2, 4); }
static void one(const rs_job *t, int64_t pixel) {
    if (t->a->p * t->a->q == 4) small(t);
    else filter(t, pixel, 1, 4);
}

void rs_conv2d_csr_planar(const rs_args *a) { rs_planar(a, eight, four, two, one); }
