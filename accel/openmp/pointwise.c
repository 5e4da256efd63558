/* Layers that touch each number once. All but batchnorm and softmax see one long array: lanes that a blocked layout
   adds hold zeros, and zeros they stay.

       relu       y = activation(x)
       add        y = activation(x0 + x1)
       batchnorm  y[n,c] = (x[n,c] - mean[c]) * a[c] + bias[c],   a = gamma / sqrt(var + eps) made when packing
       softmax    y[n,i] = exp(x[n,i] - max x[n]) / sum over j of exp(x[n,j] - max x[n])

   Reads      x (and x1), any layout;  batchnorm: pack[0] mean, pack[1] a, bias, each (c rounded up to x_block)
   Writes     y, same layout
   Threads    relu, add: pieces of 4096 numbers;  batchnorm: one plane;  softmax: one image
   Cost       bandwidth; relu and add are bitwise */
#include <math.h>

#include "rs.h"

enum { PIECE = 4096 };

static int64_t elements(const rs_args *a) { return a->n * rs_ceil(a->c, a->x_block) * a->x_block * a->h * a->w; }

void rs_relu_float32(const rs_args *a) {
    const int64_t count = elements(a), pieces = rs_ceil(count, PIECE);
    const float *x = a->x[0];
    float *y = a->y;
#pragma omp for schedule(static)
    for (int64_t piece = 0; piece < pieces; piece++) {
        const int64_t end = rs_min(count, (piece + 1) * PIECE);
        int64_t i = piece * PIECE;
        for (; i + RS_V <= end; i += RS_V) rs_store(y + i, rs_activate(rs_load(x + i), a->activation));
        for (; i < end; i++) y[i] = rs_activate1(x[i], a->activation);
    }
}

void rs_add_float32(const rs_args *a) {
    const int64_t count = elements(a), pieces = rs_ceil(count, PIECE);
    const float *x0 = a->x[0], *x1 = a->x[1];
    float *y = a->y;
#pragma omp for schedule(static)
    for (int64_t piece = 0; piece < pieces; piece++) {
        const int64_t end = rs_min(count, (piece + 1) * PIECE);
        int64_t i = piece * PIECE;
        for (; i + RS_V <= end; i += RS_V)
            rs_store(y + i, rs_activate(rs_load(x0 + i) + rs_load(x1 + i), a->activation));
        for (; i < end; i++) y[i] = rs_activate1(x0[i] + x1[i], a->activation);
    }
}

void rs_batchnorm_dense(const rs_args *a) {
    const int64_t lanes = a->x_block, blocks = rs_ceil(a->c, lanes), pixels = a->h * a->w;
    const float *mean = a->pack[0], *scale = a->pack[1];
#pragma omp for collapse(2) schedule(static)
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t b = 0; b < blocks; b++) {
            const float *x = (const float *)a->x[0] + (n * blocks + b) * pixels * lanes;
            float *y = (float *)a->y + (n * blocks + b) * pixels * lanes;
            if (lanes == 1)
                for (int64_t i = 0; i < pixels; i++) y[i] = (x[i] - mean[b]) * scale[b] + a->bias[b];
            else {
                const rs_vec m = rs_load(mean + b * RS_V), s = rs_load(scale + b * RS_V);
                const rs_vec t = rs_load(a->bias + b * RS_V);
                for (int64_t i = 0; i < pixels; i++) rs_store(y + i * RS_V, (rs_load(x + i * RS_V) - m) * s + t);
            }
        }
}

void rs_softmax_float32(const rs_args *a) {
#pragma omp for schedule(static)
    for (int64_t n = 0; n < a->n; n++) {
        const float *x = (const float *)a->x[0] + n * a->c;
        float *y = (float *)a->y + n * a->c;
        float largest = x[0], sum = 0;
        for (int64_t i = 1; i < a->c; i++) largest = x[i] > largest || x[i] != x[i] ? x[i] : largest;
        for (int64_t i = 0; i < a->c; i++) sum += y[i] = expf(x[i] - largest);
        for (int64_t i = 0; i < a->c; i++) y[i] /= sum;
    }
}
