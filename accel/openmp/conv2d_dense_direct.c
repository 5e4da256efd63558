/* The plain loop: any stride, padding, dilation and number of groups.

       y[n,k,p,q] = activation(bias[k] + sum over c,r,s of  x[n, c, p*st + r*dl - top, q*st + s*dl - left] * w[k,c,r,s])

   where a tap that falls outside the image contributes nothing.

   Reads      x nchw;  pack[0] = w float32 (k, c/g, r, s);  bias (k,)
   Writes     y nchw
   Threads    one output row (n, k, p) at a time
   Cost       n*k*p*q * (c/g)*r*s multiply-adds; one accumulator row, so the loads and stores of it bound the speed */
#include "rs.h"

void rs_conv2d_dense_direct(const rs_args *a) {
    const float *x = a->x[0], *w = a->pack[0];
    float *y = a->y;
    const int64_t cg = a->c / a->g, kg = a->k / a->g;
#pragma omp for collapse(3) schedule(static)
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t k = 0; k < a->k; k++)
            for (int64_t p = 0; p < a->p; p++) {
                float *row = y + ((n * a->k + k) * a->p + p) * a->q;
                for (int64_t q = 0; q < a->q; q++) row[q] = a->bias[k];
                const float *image = x + (n * a->c + k / kg * cg) * a->h * a->w;
                for (int64_t r = 0; r < a->r; r++) {
                    const int64_t h = p * a->st[0] + r * a->dl[0] - a->pd[0];
                    if (h < 0 || h >= a->h) continue;
                    for (int64_t s = 0; s < a->s; s++) {
                        const int64_t shift = s * a->dl[1] - a->pd[1], st = a->st[1];
                        /* the q for which 0 <= q*st + shift < w */
                        const int64_t first = shift < 0 ? rs_ceil(-shift, st) : 0;
                        const int64_t last = a->w > shift ? rs_min(a->q, rs_ceil(a->w - shift, st)) : 0;
                        for (int64_t c = 0; c < cg; c++) {
                            const float tap = w[((k * cg + c) * a->r + r) * a->s + s];
                            const float *line = image + (c * a->h + h) * a->w + shift;
                            for (int64_t q = first; q < last; q++) row[q] += tap * line[q * st];
                        }
                    }
                }
                for (int64_t q = 0; q < a->q; q++) row[q] = rs_activate1(row[q], a->activation);
            }
}
