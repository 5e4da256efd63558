/* Layers that only move numbers, of `itemsize` bytes each.

       flatten    y = x, nchw                                       one copy
       concat     y[n] = x0[n], x1[n], ..  along the channels       one copy an input and image, in any layout
       reorder    nchw <-> nchw<V>c;  lanes beyond c are written as zeros

   Reads      x;  concat: pack[0] int64 (inputs,) the bytes of one image of each input
   Writes     y
   Threads    flatten: pieces of 16 KiB;  concat: (image, input);  reorder: RS_V pixels of a block of channels
   Cost       bandwidth; bitwise */
#include "rs.h"

void rs_flatten(const rs_args *a) {
    enum { PIECE = 16384 };
    const int64_t bytes = a->n * a->c * a->h * a->w * a->itemsize, pieces = rs_ceil(bytes, PIECE);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < pieces; i++)
        memcpy((char *)a->y + i * PIECE, (const char *)a->x[0] + i * PIECE, rs_min(PIECE, bytes - i * PIECE));
}

void rs_concat(const rs_args *a) {
    const int64_t *bytes = a->pack[0];
    int64_t image = 0;
    for (int64_t i = 0; i < a->inputs; i++) image += bytes[i];
#pragma omp for collapse(2) schedule(static)
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t i = 0; i < a->inputs; i++) {
            int64_t before = 0;
            for (int64_t j = 0; j < i; j++) before += bytes[j];
            memcpy((char *)a->y + n * image + before, (const char *)a->x[i] + n * bytes[i], bytes[i]);
        }
}

/* Lane i of the result is lane index[i] of a and b, one behind the other. */
RS_INLINE rs_vec choose(rs_vec a, rs_vec b, rs_ivec index) {
#ifdef __clang__
    rs_vec v;
    for (int i = 0; i < RS_V; i++) v[i] = index[i] < RS_V ? a[index[i]] : b[index[i] - RS_V];
    return v;
#else
    return __builtin_shuffle(a, b, index);
#endif
}

/* RS_V rows of RS_V numbers, at distances `from` and `to`: y[j][i] = x[i][j]. Blocks of half a matrix off the diagonal
   change places, then those of a quarter in each of the four, and so on. */
RS_INLINE void transpose(const float *x, int64_t from, float *y, int64_t to) {
    rs_vec m[RS_V];
    RS_UNROLL for (int i = 0; i < RS_V; i++) m[i] = rs_load(x + i * from);
    RS_UNROLL for (int half = RS_V / 2; half; half /= 2) {
        rs_ivec upper = {0}, lower = {0};
        RS_UNROLL for (int i = 0; i < RS_V; i++) {
            upper[i] = i & half ? RS_V + i - half : i;
            lower[i] = i & half ? RS_V + i : i + half;
        }
        RS_UNROLL for (int i = 0; i < RS_V; i++) {
            if (i & half) continue;
            const rs_vec a = m[i], b = m[i + half];
            m[i] = choose(a, b, upper), m[i + half] = choose(a, b, lower);
        }
    }
    RS_UNROLL for (int i = 0; i < RS_V; i++) rs_store(y + i * to, m[i]);
}

RS_INLINE void transpose_float(const void *x, int64_t from, void *y, int64_t to) { transpose(x, from, y, to); }
RS_INLINE void transpose_int8_t(const void *x, int64_t from, void *y, int64_t to) {
    for (int j = 0; j < RS_V; j++)
        for (int i = 0; i < RS_V; i++) ((int8_t *)y)[j * to + i] = ((const int8_t *)x)[i * from + j];
}

/* RS_V pixels of one block, or fewer at the end of a plane: (lanes, pixels) with `plane` numbers between channels <->
   (pixels, lanes). */
#define DEFINE_REORDER(TYPE)                                                                                       \
    static void reorder_##TYPE(const rs_args *a) {                                                                 \
        const int64_t lanes = RS_V, blocks = rs_ceil(a->c, lanes), plane = a->h * a->w;                            \
        _Pragma("omp for collapse(3) schedule(static)") for (int64_t n = 0; n < a->n; n++)                         \
            for (int64_t b = 0; b < blocks; b++)                                                                   \
                for (int64_t pixel = 0; pixel < plane; pixel += lanes) {                                           \
                    const int64_t flat = (n * a->c + b * lanes) * plane + pixel;                                   \
                    const int64_t block = ((n * blocks + b) * plane + pixel) * lanes;                              \
                    const int64_t here = rs_min(lanes, a->c - b * lanes), pixels = rs_min(lanes, plane - pixel);   \
                    const int whole = here == lanes && pixels == lanes;                                            \
                    const TYPE *x = (const TYPE *)a->x[0] + (a->y_block > 1 ? flat : block);                       \
                    TYPE *y = (TYPE *)a->y + (a->y_block > 1 ? block : flat);                                      \
                    if (a->y_block > 1) {                                                                          \
                        if (whole) transpose_##TYPE(x, plane, y, lanes);                                           \
                        else for (int64_t w = 0; w < pixels; w++)                                                  \
                            for (int64_t i = 0; i < lanes; i++) y[w * lanes + i] = i < here ? x[i * plane + w] : 0; \
                    } else {                                                                                       \
                        if (whole) transpose_##TYPE(x, lanes, y, plane);                                           \
                        else for (int64_t i = 0; i < here; i++)                                                    \
                            for (int64_t w = 0; w < pixels; w++) y[i * plane + w] = x[w * lanes + i];              \
                    }                                                                                              \
                }                                                                                                  \
    }
DEFINE_REORDER(float)
DEFINE_REORDER(int8_t)

void rs_reorder(const rs_args *a) { a->itemsize == 1 ? reorder_int8_t(a) : reorder_float(a); }
