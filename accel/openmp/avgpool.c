/* Average pooling in any layout: a plane is (h, w, lanes), lanes = 1 in nchw and RS_V in nchw<V>c.

       avgpool        y[n,c,p,q] = (sum over r,s of x[n, c, p*st + r*dl - top, q*st + s*dl - left]) / count
                      count = r*s if pack[0] is 1 (padding counts as zeros), else the pixels inside the image
       globalavgpool  y[n,c]     = (sum over h,w of x[n,c,h,w]) / (h*w)

   Reads      x (planes, h, w, lanes) float32;  pack[0] int64 {count_include_pad} (avgpool)
   Writes     y (planes, p, q, lanes)
   Threads    avgpool: one output row at a time;  globalavgpool: one plane
   Cost       one addition a pixel and tap, one division an output */
#include "rs.h"

RS_INLINE void avgpool_row(const rs_args *a, int64_t plane, int64_t p, const int64_t lanes) {
    const float *x = (const float *)a->x[0] + plane * a->h * a->w * lanes;
    float *y = (float *)a->y + (plane * a->p + p) * a->q * lanes;
    const int64_t include_pad = *(const int64_t *)a->pack[0];
    for (int64_t q = 0; q < a->q; q++, y += lanes) {
        float sum[RS_V] = {0};
        int64_t inside = 0;
        for (int64_t r = 0; r < a->r; r++) {
            const int64_t h = p * a->st[0] + r * a->dl[0] - a->pd[0];
            if (h < 0 || h >= a->h) continue;
            for (int64_t s = 0; s < a->s; s++) {
                const int64_t w = q * a->st[1] + s * a->dl[1] - a->pd[1];
                if (w < 0 || w >= a->w) continue;
                for (int64_t i = 0; i < lanes; i++) sum[i] += x[(h * a->w + w) * lanes + i];
                inside++;
            }
        }
        const float count = include_pad ? a->r * a->s : inside;
        for (int64_t i = 0; i < lanes; i++) y[i] = sum[i] / count;
    }
}

void rs_avgpool_float32(const rs_args *a) {
    const int64_t planes = a->n * rs_ceil(a->c, a->x_block);
#pragma omp for collapse(2) schedule(static)
    for (int64_t plane = 0; plane < planes; plane++)
        for (int64_t p = 0; p < a->p; p++) {
            if (a->x_block == RS_V) avgpool_row(a, plane, p, RS_V);
            else avgpool_row(a, plane, p, 1);
        }
}

RS_INLINE void plane_mean(const float *x, float *y, int64_t pixels, const int64_t lanes) {
    float sum[RS_V] = {0};
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t j = 0; j < lanes; j++) sum[j] += x[i * lanes + j];
    for (int64_t j = 0; j < lanes; j++) y[j] = sum[j] / (float)pixels;
}

void rs_globalavgpool_float32(const rs_args *a) {
    const int64_t planes = a->n * rs_ceil(a->c, a->x_block), pixels = a->h * a->w;
    const float *x = a->x[0];
    float *y = a->y;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < planes; i++) {
        if (a->x_block == RS_V) plane_mean(x + i * pixels * RS_V, y + i * RS_V, pixels, RS_V);
        else plane_mean(x + i * pixels, y + i, pixels, 1);
    }
}
