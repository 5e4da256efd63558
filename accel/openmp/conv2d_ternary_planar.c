/* Ternary convolution without multiplications: sums of pixels over two lists of taps, scaled once.

       y[n,k,p,q] = activation(bias[k] + positive * (sum of x over taps of code 1) - negative * (sum over code 2))

   As conv2d_csr_planar.c, but a stored weight is an offset and no value: a filter has in a block first its positive
   taps, ends[..] to middles[..], then its negative ones, middles[..] to ends[.. + 1].

   Reads      x nchw;  pack[0] ends (rs_planar.h), pack[1] offsets uint16 (nnz,), pack[2] middles int32 (blocks*k,),
              pack[3], pack[4] (rs_planar.h), pack[5] float32 {positive, negative};  bias (k,)
   Writes     y nchw
   Scratch    on the stack: planes of one tile and block of channels
   Cost       n*p*q * nnz additions; the loads of pixels bound it */
#include "rs_planar.h"

/* sum[i] = the planes at offsets begin .. end, added up by SETS sums of their own for each vector. */
RS_INLINE void add_up(const rs_job *t, const float *x, int64_t e, int64_t end, rs_vec *sum, const int T,
                      const int SETS) {
    const uint16_t *offset = t->a->pack[1];
    rs_vec acc[4][RS_TILE];
    RS_UNROLL for (int j = 0; j < SETS; j++) RS_UNROLL for (int i = 0; i < T; i++) acc[j][i] = (rs_vec){0};
    for (; e + SETS <= end; e += SETS)
        RS_UNROLL for (int j = 0; j < SETS; j++) RS_UNROLL for (int i = 0; i < T; i++)
            acc[j][i] += rs_load(x + offset[e + j] + i * RS_V);
    for (; SETS > 1 && e < end; e++)
        RS_UNROLL for (int i = 0; i < T; i++) acc[0][i] += rs_load(x + offset[e] + i * RS_V);
    RS_UNROLL for (int i = 0; i < T; i++) {
        RS_UNROLL for (int j = 1; j < SETS; j++) acc[0][i] += acc[j][i];
        sum[i] = acc[0][i];
    }
}

RS_INLINE void filter(const rs_job *t, int64_t pixel, const int T, const int SETS) {
    const int32_t *ends = (const int32_t *)t->a->pack[0] + t->entry;
    const int32_t middle = ((const int32_t *)t->a->pack[2])[t->entry];
    const float *x = t->planes + pixel, *scales = t->a->pack[5];
    rs_vec plus[RS_TILE], minus[RS_TILE];
    add_up(t, x, ends[0], middle, plus, T, SETS);
    add_up(t, x, middle, ends[1], minus, T, SETS);
    RS_UNROLL for (int i = 0; i < T; i++)
        rs_end(t, pixel, i, T, rs_begin(t, pixel, i, T) + scales[0] * plus[i] - scales[1] * minus[i]);
}

static void eight(const rs_job *t, int64_t pixel) { filter(t, pixel, 8, 1); }
static void four(const rs_job *t, int64_t pixel) { filter(t, pixel, 4, 2); }
static void two(const rs_job *t, int64_t pixel) { filter(t, pixel, 2, 4); }
static void one(const rs_job *t, int64_t pixel) { filter(t, pixel, 1, 4); }

void rs_conv2d_ternary_planar(const rs_args *a) { rs_planar(a, eight, four, two, one); }
