/* Layers that only move numbers, of `itemsize` bytes each.

       flatten    y = x, nchw                                       one copy
       concat     y[n] = x0[n], x1[n], ..  along the channels       one copy an input and image, in any layout
       reorder    nchw <-> nchw<V>c;  lanes beyond c are written as zeros
       gather     nchw or nchw<V>c -> nchw<V>n;  lanes beyond n are written as zeros
       scatter    the way back
       cut        nchw or nchw<V>c -> nchw<V>p
       join       the way back;  lanes beyond c are written as zeros

   Reads      x;  concat: pack[0] int64 (inputs,) the bytes of one image of each input
   Writes     y
   Threads    flatten: pieces of 16 KiB;  concat: (image, input);  cut, join: a row of patches of a channel, or a block;
              the others: RS_V pixels, or one, of a block
   Cost       bandwidth; bitwise */
#include "rs_transpose.h"

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

RS_INLINE void transpose_float(const void *x, int64_t from, void *y, int64_t to) { rs_transpose(x, from, y, to); }
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

/* RS_V images of RS_V pixels of a channel; or of RS_V channels of a pixel, where `block` is not 1 and where an image is
   one pixel. */
RS_INLINE void images(const rs_args *a, int64_t block, int gather) {
    const int64_t plane = a->h * a->w;
    const int64_t channels = block == 1 && plane > 1 ? 1 : RS_V, pixels = RS_V / channels;
    const int64_t image = rs_ceil(a->c, block) * block * plane, row = channels == 1 ? RS_V : plane * RS_V;
    const float *x = a->x[0];
    float *y = a->y;
#pragma omp for collapse(3) schedule(static)
    for (int64_t n = 0; n < a->n; n += RS_V)
        for (int64_t c = 0; c < a->c; c += channels)
            for (int64_t pixel = 0; pixel < plane; pixel += pixels) {
                const int64_t many = rs_min(RS_V, a->n - n), left = channels == 1 ? plane - pixel : a->c - c;
                const int64_t others = rs_min(RS_V, left), apart = n * image + c * plane + pixel * block;
                const int64_t beside = ((n / RS_V * a->c + c) * plane + pixel) * RS_V;
                if (gather) rs_turn(x + apart, image, y + beside, row, others, many, RS_V);
                else rs_turn(x + beside, row, y + apart, image, many, others, block == 1 ? others : RS_V);
            }
}

void rs_reorder_gather(const rs_args *a) { images(a, a->x_block, 1); }
void rs_reorder_scatter(const rs_args *a) { images(a, a->y_block, 0); }

/* Where the patches of an image begin. */
RS_INLINE void patches_of(const rs_args *a, int64_t lanes, int64_t *patch) {
    const int64_t rows = a->h / RS_DOWN, cols = a->w / RS_ACROSS;
    for (int64_t i = 0; i < RS_V; i++) patch[i] = (i / RS_ACROSS * rows * a->w + i % RS_ACROSS * cols) * lanes;
}

/* nchw: a row of all patches of a channel. */
RS_INLINE void rows_of_patches(const rs_args *a, int cut) {
    const int64_t rows = a->h / RS_DOWN, cols = a->w / RS_ACROSS, plane = a->h * a->w;
    int64_t patch[RS_V];
    patches_of(a, 1, patch);
#pragma omp for collapse(2) schedule(static)
    for (int64_t n = 0; n < a->n * a->c; n++)
        for (int64_t p = 0; p < rows; p++) {
            const int64_t apart = n * plane + p * a->w, beside = n * plane + p * cols * RS_V;
            const float *x = (const float *)a->x[0] + (cut ? apart : beside);
            float *y = (float *)a->y + (cut ? beside : apart);
            for (int64_t q = 0; q < cols; q++)
                for (int64_t i = 0; i < RS_V; i++)
                    if (cut) y[q * RS_V + i] = x[patch[i] + q];
                    else y[patch[i] + q] = x[q * RS_V + i];
        }
}

/* nchw<V>c: a pixel of all patches of RS_V channels. */
RS_INLINE void pixels_of_patches(const rs_args *a, int cut) {
    const int64_t rows = a->h / RS_DOWN, cols = a->w / RS_ACROSS, plane = a->h * a->w, blocks = rs_ceil(a->c, RS_V);
    int64_t patch[RS_V];
    patches_of(a, RS_V, patch);
#pragma omp for collapse(3) schedule(static)
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t p = 0; p < rows; p++)
                for (int64_t q = 0; q < cols; q++) {
                    const int64_t here = rs_min(RS_V, a->c - b * RS_V);
                    const int64_t apart = ((n * blocks + b) * plane + p * a->w + q) * RS_V;
                    const int64_t beside = (n * a->c + b * RS_V) * plane + (p * cols + q) * RS_V;
                    const float *x = (const float *)a->x[0] + (cut ? apart : beside);
                    float *y = (float *)a->y + (cut ? beside : apart);
                    rs_vec m[RS_V] = {{0}};
                    for (int64_t i = 0; i < (cut ? RS_V : here); i++) m[i] = rs_load(x + (cut ? patch[i] : i * plane));
                    rs_transpose_vectors(m);
                    for (int64_t i = 0; i < (cut ? here : RS_V); i++) rs_store(y + (cut ? i * plane : patch[i]), m[i]);
                }
}

void rs_reorder_cut(const rs_args *a) { a->x_block == 1 ? rows_of_patches(a, 1) : pixels_of_patches(a, 1); }
void rs_reorder_join(const rs_args *a) { a->y_block == 1 ? rows_of_patches(a, 0) : pixels_of_patches(a, 0); }
