/* Integer convolution, the plain loop: any stride, padding, dilation and number of groups.

       acc = sum over c,r,s of  values[k,c,r,s] * (x[n, c, p*st + r*dl - top, q*st + s*dl - left] - zero_point) + bias
       y   = rs_int8.h's rule;  padding holds zero_point, so a tap that falls outside the image adds nothing

   Reads      x int8 nchw;  pack[0] values int8 (k, c/g, r, s);  pack[1] int64 {1, zero_point};
              pack[2..4] constant, requant, unit
   Writes     y nchw, int8 or float32
   Threads    one output row (n, k, p) at a time
   Cost       n*k*p*q * (c/g)*r*s multiply-adds, one at a time */
#include "rs_int8.h"

void rs_conv2d_int8_direct(const rs_args *a) {
    const int8_t *x = a->x[0], *values = a->pack[0];
    const int32_t zero = (int32_t)((const int64_t *)a->pack[1])[1];
    const int64_t cg = a->c / a->g, kg = a->k / a->g;
    const rs_finish f = rs_finish_of(a, 2, a->k);
#pragma omp for collapse(3) schedule(static)
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t k = 0; k < a->k; k++)
            for (int64_t p = 0; p < a->p; p++)
                for (int64_t q = 0; q < a->q; q++) {
                    int32_t acc = f.constant[k];
                    for (int64_t r = 0; r < a->r; r++)
                        for (int64_t s = 0; s < a->s; s++) {
                            const int64_t h = p * a->st[0] + r * a->dl[0] - a->pd[0];
                            const int64_t w = q * a->st[1] + s * a->dl[1] - a->pd[1];
                            if (h < 0 || h >= a->h || w < 0 || w >= a->w) continue;
                            for (int64_t c = 0; c < cg; c++)
                                acc += values[((k * cg + c) * a->r + r) * a->s + s] *
                                       (x[((n * a->c + k / kg * cg + c) * a->h + h) * a->w + w] - zero);
                        }
                    rs_finish1(a, &f, k, acc, ((n * a->k + k) * a->p + p) * a->q + q);
                }
}
