/* Max-pooling in any layout: a plane is (h, w, lanes), lanes = 1 in nchw and RS_V in nchw<V>c.

       y[n,c,p,q] = max over r,s of x[n, c, p*st + r*dl - top, q*st + s*dl - left]        NaN wins, padding never does

   Reads      x (planes, h, w, lanes), float32 or int8
   Writes     y (planes, p, q, lanes), same type
   Threads    one plane or one output row at a time
   Cost       n*c*p*q * r*s comparisons; bitwise */
#include "rs.h"

/* best is kept unless x is larger or NaN: written so that a NaN in either place ends up in best. */
#define DEFINE_MAXPOOL(NAME, TYPE, LARGER)                                                                         \
    RS_INLINE void NAME##_row(const rs_args *a, int64_t plane, int64_t p, const int64_t lanes) {                   \
        const TYPE *x = (const TYPE *)a->x[0] + plane * a->h * a->w * lanes;                                       \
        TYPE *y = (TYPE *)a->y + (plane * a->p + p) * a->q * lanes;                                                \
        for (int64_t q = 0; q < a->q; q++, y += lanes) {                                                           \
            int first = 1;                                                                                         \
            for (int64_t r = 0; r < a->r; r++) {                                                                   \
                const int64_t h = p * a->st[0] + r * a->dl[0] - a->pd[0];                                          \
                if (h < 0 || h >= a->h) continue;                                                                  \
                for (int64_t s = 0; s < a->s; s++) {                                                               \
                    const int64_t w = q * a->st[1] + s * a->dl[1] - a->pd[1];                                      \
                    if (w < 0 || w >= a->w) continue;                                                              \
                    const TYPE *pixel = x + (h * a->w + w) * lanes;                                                \
                    if (first) memcpy(y, pixel, sizeof(TYPE) * lanes);                                             \
                    else for (int64_t i = 0; i < lanes; i++) y[i] = LARGER(pixel[i], y[i]) ? pixel[i] : y[i];      \
                    first = 0;                                                                                     \
                }                                                                                                  \
            }                                                                                                      \
        }                                                                                                          \
    }                                                                                                              \
    /* The commonest window, 2x2 at stride 2 inside the image, without a branch. */                                \
    RS_INLINE void NAME##_pairs(const rs_args *a, int64_t plane, int64_t columns, const int64_t lanes) {           \
        const int64_t line = a->w * lanes, out = columns * lanes;                                                  \
        const TYPE *restrict x = (const TYPE *)a->x[0] + plane * a->h * line;                                      \
        TYPE *restrict y = (TYPE *)a->y + plane * a->p * out;                                                      \
        for (int64_t p = 0; p < a->p; p++, x += 2 * line, y += out)                                                \
            for (int64_t q = 0; q < columns; q++) RS_UNROLL for (int64_t i = 0; i < lanes; i++) {                  \
                const TYPE *restrict x0 = x + 2 * q * lanes + i, *restrict x1 = x0 + line;                         \
                TYPE best = x0[0];                                                                                 \
                best = LARGER(x0[lanes], best) ? x0[lanes] : best;                                                 \
                best = LARGER(x1[0], best) ? x1[0] : best;                                                         \
                y[q * lanes + i] = LARGER(x1[lanes], best) ? x1[lanes] : best;                                     \
            }                                                                                                      \
    }                                                                                                              \
    void rs_maxpool_##NAME(const rs_args *a) {                                                                     \
        const int64_t planes = a->n * rs_ceil(a->c, a->x_block);                                                   \
        const int pairs = a->r == 2 && a->s == 2 && a->st[0] == 2 && a->st[1] == 2 && a->dl[0] == 1 &&             \
                          a->dl[1] == 1 && !rs_padded(a);                                                          \
        if (pairs) {                                                                                               \
            _Pragma("omp for schedule(static)") for (int64_t plane = 0; plane < planes; plane++) {                 \
                if (a->x_block == RS_V) NAME##_pairs(a, plane, a->q, RS_V);                                        \
                else if (a->q == 4) NAME##_pairs(a, plane, 4, 1); /* as constants: loops of vectors cost more */   \
                else if (a->q == 2) NAME##_pairs(a, plane, 2, 1);                                                  \
                else if (a->q == 1) NAME##_pairs(a, plane, 1, 1);                                                  \
                else NAME##_pairs(a, plane, a->q, 1);                                                              \
            }                                                                                                      \
            return;                                                                                                \
        }                                                                                                          \
        _Pragma("omp for collapse(2) schedule(static)") for (int64_t plane = 0; plane < planes; plane++)           \
            for (int64_t p = 0; p < a->p; p++) {                                                                   \
                if (a->x_block == RS_V) NAME##_row(a, plane, p, RS_V);                                             \
                else NAME##_row(a, plane, p, 1);                                                                   \
            }                                                                                                      \
    }

#define LARGER_FLOAT(x, best) ((x) > (best) || (x) != (x))
#define LARGER_INT(x, best) ((x) > (best))
DEFINE_MAXPOOL(float32, float, LARGER_FLOAT)
DEFINE_MAXPOOL(int8, int8_t, LARGER_INT)
