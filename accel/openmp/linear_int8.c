/* The integer fully connected layer, RS_V output features a vector, four products a lane.

       acc = sum over c of  values[k,c] * (x[n,c] - zero_point) + bias;   y = rs_int8.h's rule

   Inputs are offset by 128 to be unsigned; the constant that a sum starts from takes off what that adds.

   Weights    [k / V][c / 4][V k][4 c] int8, zeros beyond k and c
   Reads      x int8 (n, c);  pack[0] weights;  pack[1] int64 {1, zero_point};  pack[2..4] constant, requant, unit
   Writes     y (n, k), int8 or float32
   Scratch    x + 128, rows of c rounded up to 4
   Threads    one block of V features of one image at a time
   Cost       n*k*c multiply-adds, 4*V an instruction with VNNI */
#include "rs_int8.h"

void rs_linear_int8_blocked(const rs_args *a) {
    const int64_t fours = rs_ceil(a->c, 4), blocks = rs_ceil(a->k, RS_V);
    const rs_finish f = rs_finish_of(a, 2, blocks * RS_V);
#pragma omp for schedule(static)
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t c = 0; c < fours * 4; c++)
            ((uint8_t *)a->scratch)[n * fours * 4 + c] = c < a->c ? ((const uint8_t *)a->x[0])[n * a->c + c] ^ 128 : 0;
#pragma omp for collapse(2) schedule(static)
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t n = 0; n < a->n; n++) {
            const uint8_t *x = (const uint8_t *)a->scratch + n * fours * 4;
            const int8_t *w = (const int8_t *)a->pack[0] + b * fours * RS_V * 4;
            rs_ivec acc[4] = {*(const rs_ivec_any *)(f.constant + b * RS_V)}; /* one chain would wait for itself */
            int64_t c = 0;
            for (; c + 4 <= fours; c += 4)
                RS_UNROLL for (int j = 0; j < 4; j++) acc[j] = rs_dot4(acc[j], x + (c + j) * 4, w + (c + j) * RS_V * 4);
            for (; c < fours; c++) acc[0] = rs_dot4(acc[0], x + c * 4, w + c * RS_V * 4);
            const rs_ivec sum = acc[0] + acc[1] + acc[2] + acc[3];
            for (int64_t i = 0; i < rs_min(RS_V, a->k - b * RS_V); i++)
                rs_finish1(a, &f, b * RS_V + i, sum[i], n * a->k + b * RS_V + i);
        }
}
