/* The sparse fully connected layer of many images: vectors of one number of RS_V images.

       y[n,k] = activation(bias[k] + sum over stored (k,c) of  x[n,c] * value)

   Reads      x (n, c);  pack[0] indptr int32, pack[1] columns int32, pack[2] values float32;  bias (k,)
   Writes     y (n, k)
   Threads    (vector of images, RS_V channels), then (vector of images, RS_V features)
   Scratch    lines [n / V][c][V]: x with images side by side
   Cost       n * nnz multiply-adds, each with a load; each number of x and y takes part in one transposition */
#include "rs_transpose.h"

/* Four sums: one alone would wait for itself. */
RS_INLINE rs_vec feature(const rs_args *a, const float *lines, int64_t k) {
    const int32_t *indptr = a->pack[0], *column = a->pack[1];
    const float *value = a->pack[2];
    rs_vec sum[4] = {rs_all(a->bias[k])};
    int64_t e = indptr[k];
    for (; e + 4 <= indptr[k + 1]; e += 4)
        RS_UNROLL for (int j = 0; j < 4; j++) sum[j] += rs_all(value[e + j]) * rs_load(lines + column[e + j] * RS_V);
    for (; e < indptr[k + 1]; e++) sum[0] += rs_all(value[e]) * rs_load(lines + column[e] * RS_V);
    return rs_activate((sum[0] + sum[1]) + (sum[2] + sum[3]), a->activation);
}

void rs_linear_csr_batch(const rs_args *a) {
    float *lines = a->scratch;
#pragma omp for collapse(2) schedule(static)
    for (int64_t n = 0; n < a->n; n += RS_V)
        for (int64_t c = 0; c < a->c; c += RS_V)
            rs_turn((const float *)a->x[0] + n * a->c + c, a->c, lines + n * a->c + c * RS_V, RS_V,
                    rs_min(RS_V, a->c - c), rs_min(RS_V, a->n - n), RS_V);
#pragma omp for collapse(2) schedule(static)
    for (int64_t n = 0; n < a->n; n += RS_V)
        for (int64_t k = 0; k < a->k; k += RS_V) {
            const int64_t features = rs_min(RS_V, a->k - k);
            float sums[RS_V * RS_V];
            for (int64_t i = 0; i < features; i++) rs_store(sums + i * RS_V, feature(a, lines + n * a->c, k + i));
            rs_turn(sums, RS_V, (float *)a->y + n * a->k + k, a->k, rs_min(RS_V, a->n - n), features, features);
        }
}
