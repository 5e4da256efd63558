/* The ternary fully connected layer, RS_V output features a vector, two bits a weight.

       y[n,k] = activation(bias[k] + sum over c of x[n,c] * w[k,c]),   w looked up by code (rs_ternary.h)

   Weights    [k / V][c] words of V codes
   Reads      x (n, c);  pack[0] codes;  pack[1] table float32 (V,);  bias (k rounded up to V)
   Writes     y (n, k)
   Threads    one block of V features at a time
   Cost       n*k*c multiply-adds */
#include "rs_ternary.h"

void rs_linear_ternary_blocked(const rs_args *a) {
    const rs_vec table = rs_load(a->pack[1]);
    const int64_t blocks = rs_ceil(a->k, RS_V);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t n = 0; n < a->n; n++) {
            const float *x = (const float *)a->x[0] + n * a->c;
            const rs_stored *w = (const rs_stored *)a->pack[0] + b * a->c;
            rs_vec acc[4] = {rs_load(a->bias + b * RS_V)}; /* one chain would wait for itself */
            int64_t c = 0;
            for (; c + 4 <= a->c; c += 4)
                RS_UNROLL for (int j = 0; j < 4; j++) acc[j] += rs_all(x[c + j]) * rs_weights(w + c + j, table);
            for (; c < a->c; c++) acc[0] += rs_all(x[c]) * rs_weights(w + c, table);
            const rs_vec sum = rs_activate(acc[0] + acc[1] + acc[2] + acc[3], a->activation);
            memcpy((float *)a->y + n * a->k + b * RS_V, &sum, sizeof(float) * rs_min(RS_V, a->k - b * RS_V));
        }
}
