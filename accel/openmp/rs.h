/* What every kernel shares: its arguments, vectors of RS_V floats, the activations.

   Axis letters   n images  c in-channels  h w input  k out-channels  r s filter  p q output  g groups
   Layouts        nchw        (n, c, h, w)
                  nchw16c     (n, ceil(c/16), h, w, 16)    "blocked": RS_V channels of one pixel side by side;
                                                           lanes beyond c hold zeros
                  nchw16n     (ceil(n/16), c, h, w, 16)    the same of images; rs_args then has n in blocks, and c and
                                                           k in lanes of all of them
                  nchw16p     (n, c, h/4, w/4, 16)         the same of patches that an image falls into; rs_args then
                                                           has h, w, p, q of one, and c and k in lanes of all of them
   Vectors        GCC vector extensions, so one source serves every machine:
                  RS_V = 16 with AVX-512, 8 with AVX, 4 elsewhere; build with -DRS_V=4 to see that path
   Rules          a kernel never reads y before it wrote it, keeps no static state, and never splits a sum between
                  threads: the result has the same bits for any number of them
   Next: rs_run.c, conv2d_dense_direct.c, conv2d_dense_blocked.c */
#ifndef RS_H
#define RS_H

#include <stdint.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#ifndef RS_V
#if defined(__AVX512F__)
#define RS_V 16
#elif defined(__AVX__)
#define RS_V 8
#else
#define RS_V 4
#endif
#endif

/* Vector accumulators a register tile may hold: 32 registers with AVX-512, 16 before. */
#define RS_ACC (RS_V == 16 ? 24 : 12)

enum { RS_NONE, RS_RELU, RS_RELU6 };

/* Patches of an image, whose pixels lie side by side in nchw<V>p: kernels.patch_grid. */
enum { RS_DOWN = RS_V == 16 ? 4 : 2, RS_ACROSS = RS_V / RS_DOWN };

/* One kernel call. refstack/backends/openmp.py has the same fields in the same order. */
typedef struct {
    const void *const *x;    /* inputs, `inputs` of them */
    void *y;                 /* output */
    void *scratch;           /* working memory of this call, 64-byte aligned */
    const float *bias;       /* (k,) or (k rounded up to RS_V) in blocked kernels; never NULL where read */
    const void *const *pack; /* the other packed arrays, in the order in which the row's pack names them */
    int64_t n, c, h, w, k, p, q, r, s, g;
    int64_t st[2], pd[4], dl[2]; /* stride, padding (top left bottom right), dilation */
    int64_t activation;          /* RS_NONE, RS_RELU, RS_RELU6 */
    int64_t inputs;
    int64_t itemsize;         /* bytes of one element of x */
    int64_t x_block, y_block; /* channels side by side: 1 for nchw, 16 for nchw16c */
    int64_t to_int8;          /* the output is int8 (quantized kernels) */
} rs_args;

typedef void rs_fn(const rs_args *);

/* One entry of the table that rs_run walks. */
typedef struct {
    rs_fn *fn;
    const rs_args *args;
} rs_step;

typedef float rs_vec __attribute__((vector_size(4 * RS_V)));
typedef int32_t rs_ivec __attribute__((vector_size(4 * RS_V)));
typedef float rs_vec_any __attribute__((vector_size(4 * RS_V), aligned(4), may_alias));
typedef int32_t rs_ivec_any __attribute__((vector_size(4 * RS_V), aligned(4), may_alias));

#define RS_INLINE static inline __attribute__((always_inline))
#define RS_UNROLL _Pragma("GCC unroll 36") /* the points of the largest Winograd tile */

/* A pointer that the compiler cannot see through: what is read at constant distances from it shares one register, where
   gcc would compute an address for each. */
#define RS_OPAQUE(p) __asm__("" : "+r"(p))

/* A vector that stays in a register: gcc would load one from memory again for each use. */
#if defined(__x86_64__)
#define RS_KEEP(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define RS_KEEP(v) __asm__("" : "+w"(v))
#else
#define RS_KEEP(v) ((void)0)
#endif

RS_INLINE rs_vec rs_load(const float *x) { return *(const rs_vec_any *)x; }
RS_INLINE void rs_store(float *y, rs_vec v) { *(rs_vec_any *)y = v; }
RS_INLINE rs_vec rs_all(float x) { return x - (rs_vec){0}; } /* x in every lane */
RS_INLINE rs_vec rs_select(rs_ivec mask, rs_vec yes, rs_vec no) {
    return (rs_vec)((mask & (rs_ivec)yes) | (~mask & (rs_ivec)no));
}

/* table[index modulo RS_V], lane by lane. */
RS_INLINE rs_vec rs_look_up(rs_vec table, rs_ivec index) {
#ifdef __clang__
    rs_vec v;
    for (int i = 0; i < RS_V; i++) v[i] = table[index[i] & (RS_V - 1)];
    return v;
#else
    return __builtin_shuffle(table, index);
#endif
}

/* max(x, 0), then min(.., 6). A comparison with NaN is false, so NaN stays NaN. */
RS_INLINE float rs_activate1(float x, int64_t activation) {
    if (activation != RS_NONE) x = x < 0 ? 0 : x;
    if (activation == RS_RELU6) x = x > 6 ? 6 : x;
    return x;
}
RS_INLINE rs_vec rs_activate(rs_vec x, int64_t activation) {
    const rs_vec zero = {0}, six = zero + 6;
    if (activation != RS_NONE) x = rs_select(x < zero, zero, x);
    if (activation == RS_RELU6) x = rs_select(x > six, six, x);
    return x;
}

/* Threads of the region that rs_run opened. */
RS_INLINE int64_t rs_threads(void) {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}

/* How many threads share each of so many items: all of them, where items alone do not share out evenly. */
RS_INLINE int64_t rs_shares(int64_t items) { return items % rs_threads() ? rs_threads() : 1; }

RS_INLINE int64_t rs_min(int64_t a, int64_t b) { return a < b ? a : b; }
RS_INLINE int64_t rs_max(int64_t a, int64_t b) { return a > b ? a : b; }
RS_INLINE int64_t rs_ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }
RS_INLINE int rs_padded(const rs_args *a) { return a->pd[0] || a->pd[1] || a->pd[2] || a->pd[3]; }

/* Copy one image (blocks, h, w, lanes) with zeros left and right of each row. Ends with a barrier. */
RS_INLINE void rs_pad_rows(const rs_args *a, const float *x, float *to, int64_t blocks, int64_t lanes) {
    const int64_t left = a->pd[1] * lanes, middle = a->w * lanes, right = a->pd[3] * lanes;
#pragma omp for schedule(static)
    for (int64_t line = 0; line < blocks * a->h; line++) {
        float *row = to + line * (left + middle + right);
        memset(row, 0, sizeof(float) * left);
        memcpy(row + left, x + line * middle, sizeof(float) * middle);
        memset(row + left + middle, 0, sizeof(float) * right);
    }
}

#endif
