/* The fully connected layer, RS_V output features a vector.

       y[n,k] = activation(bias[k] + sum over c of x[n,c] * w[k,c])

   Weights    [k / V][c][V k], the last block filled up with zeros: read once, in order
   Reads      x (n, c);  pack[0] weights;  bias (k rounded up to V)
   Writes     y (n, k)
   Threads    one block of V features at a time
   Cost       n*k*c multiply-adds; at n = 1 the weights' bandwidth bounds it */
#include "rs.h"

/* Four images (or one) against one block; the sum over c is cut into four chains that are added at the end, since one
   chain would wait for itself. */
RS_INLINE void block(const rs_args *a, int64_t n, int64_t kb, const int IMAGES, const int CHAINS) {
    const float *x = (const float *)a->x[0] + n * a->c, *w = (const float *)a->pack[0] + kb * a->c * RS_V;
    rs_vec acc[4][4];
    RS_UNROLL for (int i = 0; i < IMAGES; i++) RS_UNROLL for (int j = 0; j < CHAINS; j++) acc[i][j] = (rs_vec){0};
    int64_t c = 0;
    for (; c + CHAINS <= a->c; c += CHAINS)
        RS_UNROLL for (int j = 0; j < CHAINS; j++) {
            const rs_vec wv = rs_load(w + (c + j) * RS_V);
            RS_UNROLL for (int i = 0; i < IMAGES; i++) acc[i][j] += rs_all(x[i * a->c + c + j]) * wv;
        }
    for (; c < a->c; c++)
        RS_UNROLL for (int i = 0; i < IMAGES; i++) acc[i][0] += rs_all(x[i * a->c + c]) * rs_load(w + c * RS_V);
    RS_UNROLL for (int i = 0; i < IMAGES; i++) {
        rs_vec sum = rs_load(a->bias + kb * RS_V);
        RS_UNROLL for (int j = 0; j < CHAINS; j++) sum += acc[i][j];
        sum = rs_activate(sum, a->activation);
        float *y = (float *)a->y + (n + i) * a->k + kb * RS_V;
        memcpy(y, &sum, sizeof(float) * rs_min(RS_V, a->k - kb * RS_V));
    }
}

void rs_linear_dense_blocked(const rs_args *a) {
    const int64_t blocks = rs_ceil(a->k, RS_V);
#pragma omp for schedule(static)
    for (int64_t kb = 0; kb < blocks; kb++) {
        int64_t n = 0;
        for (; n + 4 <= a->n; n += 4) block(a, n, kb, 4, 4);
        for (; n < a->n; n++) block(a, n, kb, 1, 4);
    }
}
