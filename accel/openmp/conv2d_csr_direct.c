/* Sparse convolution and the sparse fully connected layer, the plain loops.

       conv2d   y[n,k,p,q] = activation(bias[k] + sum over stored (k,c,r,s) of  x[n, c, p*st + r*dl - top, ..] * value)
       linear   y[n,k]     = activation(bias[k] + sum over stored (k,c) of  x[n,c] * value)

   where a tap that falls outside the image contributes nothing. Any stride, padding, dilation and number of groups; a
   filter of group j sees channels from j * c/g on.

   Reads      x nchw;  pack[0] indptr int32 (k + 1,), pack[1] columns int32 (nnz,), pack[2] values float32 (nnz,);
              conv2d's columns are (c, r, s) triples: int32 (nnz, 3);  bias (k,)
   Writes     y nchw
   Threads    conv2d: one output row (n, k, p) at a time;  linear: one feature
   Cost       n*p*q * nnz multiply-adds; conv2d loads and stores its row of sums for each */
#include "rs.h"

void rs_conv2d_csr_direct(const rs_args *a) {
    const int32_t *indptr = a->pack[0], *tap = a->pack[1];
    const float *value = a->pack[2];
    const int64_t cg = a->c / a->g, kg = a->k / a->g;
#pragma omp for collapse(3) schedule(static)
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t k = 0; k < a->k; k++)
            for (int64_t p = 0; p < a->p; p++) {
                const float *x = (const float *)a->x[0] + (n * a->c + k / kg * cg) * a->h * a->w;
                float *row = (float *)a->y + ((n * a->k + k) * a->p + p) * a->q;
                for (int64_t q = 0; q < a->q; q++) row[q] = a->bias[k];
                for (int64_t e = indptr[k]; e < indptr[k + 1]; e++) {
                    const int64_t h = p * a->st[0] + tap[3 * e + 1] * a->dl[0] - a->pd[0];
                    const int64_t shift = tap[3 * e + 2] * a->dl[1] - a->pd[1];
                    if (h < 0 || h >= a->h) continue;
                    const float *line = x + (tap[3 * e] * a->h + h) * a->w;
                    for (int64_t q = 0, w = shift; q < a->q; q++, w += a->st[1])
                        if (w >= 0 && w < a->w) row[q] += value[e] * line[w];
                }
                for (int64_t q = 0; q < a->q; q++) row[q] = rs_activate1(row[q], a->activation);
            }
}

/* Four sums: one alone would wait for itself. */
void rs_linear_csr_direct(const rs_args *a) {
    const int32_t *indptr = a->pack[0], *column = a->pack[1];
    const float *value = a->pack[2];
#pragma omp for schedule(static)
    for (int64_t k = 0; k < a->k; k++)
        for (int64_t n = 0; n < a->n; n++) {
            const float *x = (const float *)a->x[0] + n * a->c;
            float sum[4] = {a->bias[k]};
            int64_t e = indptr[k];
            for (; e + 4 <= indptr[k + 1]; e += 4)
                for (int j = 0; j < 4; j++) sum[j] += value[e + j] * x[column[e + j]];
            for (; e < indptr[k + 1]; e++) sum[0] += value[e] * x[column[e]];
            ((float *)a->y)[n * a->k + k] = rs_activate1((sum[0] + sum[1]) + (sum[2] + sum[3]), a->activation);
        }
}
