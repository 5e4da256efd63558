/* What the kernels for processors share: vectors of 16 lanes, few heavy work-items, no local memory.

   Layouts    nchw        (n, c, h, w)
              nchw16c     (n, ceil(c/16), h, w, 16)    "blocked": V channels of one pixel side by side, zeros beyond c
   Vectors    16 lanes whatever the processor has: compilers cut them into what there is.
   Style      accumulators in arrays that only literals index, by EACH_.. below: loops over them are unrolled too late
              to be kept in registers; no built-in function in an inner loop, since some runtimes call them; unaligned
              loads by packed structs, for the same reason; a*b+c, which FP_CONTRACT fuses, and never mad or fma
   Built-ins  those of clang for one processor (__builtin_ia32_..) stand behind its own macro, with plain arithmetic
              beside them
   Next: rs_tile_cpu.cl, conv2d_blocked_cpu.cl */
#define V 16
#define RS_INLINE inline __attribute__((always_inline))

/* RS_ALONE name(arguments RS_WHICH) { .. }    a work-item that is a group of its own: rs_item(d) of rs_items(d) in each
                                               of three dimensions; in a walk a function that is called for each */
#ifdef RS_SPANS
#define RS_ALONE static void
#define RS_WHICH , const rs_which *rs_this
#define rs_item(d) rs_this->at[d]
#define rs_items(d) rs_this->of[d]
#else
#define RS_ALONE __attribute__((reqd_work_group_size(1, 1, 1))) __kernel void
#define RS_WHICH
#define rs_item(d) ((int)get_global_id(d))
#define rs_items(d) ((int)get_global_size(d))
#endif

typedef float16 rs_vec;
typedef int16 rs_ivec;
typedef struct __attribute__((packed, aligned(4))) { float16 v; } rs_vec_any;
typedef struct __attribute__((packed, aligned(4))) { int16 v; } rs_ivec_any;

typedef union {
    rs_vec v;
    float lane[V];
} rs_lanes;

RS_INLINE rs_vec rs_load(__global const float *x) { return ((__global const rs_vec_any *)x)->v; }
RS_INLINE void rs_store(__global float *y, rs_vec v) { ((__global rs_vec_any *)y)->v = v; }
RS_INLINE rs_ivec rs_load_int(__global const int *x) { return ((__global const rs_ivec_any *)x)->v; }
RS_INLINE void rs_store_int(__global int *y, rs_ivec v) { ((__global rs_ivec_any *)y)->v = v; }

/* V bytes to int and back (values that fit). */
typedef struct __attribute__((packed)) { char16 v; } rs_bytes_any;
#ifdef __clang__
#define RS_CONVERT(x, type) __builtin_convertvector(x, type) /* no call */
#else
#define RS_CONVERT(x, type) convert_##type(x)
#endif
RS_INLINE rs_ivec rs_bytes_at(__global const char *x) {
    return RS_CONVERT(((__global const rs_bytes_any *)x)->v, int16);
}
RS_INLINE void rs_store_bytes(__global char *y, rs_ivec v) { ((__global rs_bytes_any *)y)->v = RS_CONVERT(v, char16); }

/* f(0) .. f(n - 1) */
#define EACH_3(f) f(0) f(1) f(2)
#define EACH_4(f) f(0) f(1) f(2) f(3)
#define EACH_6(f) EACH_4(f) f(4) f(5)
#define EACH_8(f) EACH_6(f) f(6) f(7)
#define EACH_9(f) EACH_8(f) f(8)
#define EACH_12(f) EACH_9(f) f(9) f(10) f(11)
#define EACH_16(f) EACH_12(f) f(12) f(13) f(14) f(15)

RS_INLINE rs_vec rs_activate_all(rs_vec x, int activation) {
    if (activation) x = x < 0 ? 0 : x;
    if (activation == 2) x = x > 6 ? 6 : x;
    return x;
}

RS_INLINE int rs_ceil(int a, int b) { return (a + b - 1) / b; }

/* Bytes that are asked for before they are needed, where the compiler knows how. */
#if defined(__AVX2__) || defined(__aarch64__)
#define RS_PREFETCH(p) __builtin_prefetch((const void *)(ulong)(p))
#define RS_PREFETCH_FAR(p) __builtin_prefetch((const void *)(ulong)(p), 0, 2) /* to the second cache */
#else
#define RS_PREFETCH(p)
#define RS_PREFETCH_FAR(p)
#endif

/* How register tiles share out the blocks of output channels: groups of `most` (1, 2 or 4) blocks, then one of 2, then
   one of 1, as far as there are any left. packing.tiles lays the weights out in the same order. */
typedef struct {
    int first, size; /* blocks */
} rs_span;

RS_INLINE void rs_span_of(int i, int blocks, int most, rs_span *g) {
    const int full = blocks / most;
    g->first = i * most, g->size = most;
    if (i == full && blocks % most >= 2) g->size = 2;
    else if (i >= full) g->first = blocks - 1, g->size = 1;
}
