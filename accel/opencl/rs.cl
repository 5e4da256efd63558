/* What every kernel shares: its arguments, the activations. OpenCL C 1.2, no extension but cl_khr_fp64 for `quantize`.

   Axis letters   n images  c in-channels  h w input  k out-channels  r s filter  p q output  g groups
   A kernel       is written once and runs in two ways: by itself, or as a step of one launch for a whole network
                  (refstack/backends/opencl/fused.py), where it is a function that is told its place among the groups
   Rules          a*b+c may be contracted to one fused multiply-add; a kernel writes every number of y, reads nothing
                  of y and scratch that it has not written, and adds up in an order that hangs on its sizes alone
   Next: conv2d_dense_direct.cl; refstack/backends/opencl/segment.py calls */
#pragma OPENCL FP_CONTRACT ON

/* One kernel call. refstack/backends/opencl/segment.py has the same fields in the same order. */
typedef struct {
    int n, c, h, w, k, p, q, r, s, g;
    int st0, st1, pd0, pd1, pd2, pd3, dl0, dl1; /* stride, padding (top left bottom right), dilation */
    int activation;                             /* 0 none, 1 relu, 2 relu6 */
    int x_block, y_block;                       /* channels side by side: 1 for nchw, 16 for nchw16c */
    int to_int8;                                /* the output is int8 (quantized kernels) */
    int parts;                                  /* pieces that a sum is split into, for kernels that split it */
    int joined;                                 /* the activation of an addition that is done on the way */
} rs_args;

/* RS_KERNEL name(arguments RS_PLACE) { RS_LOCAL(n) .. }      rs_group of rs_groups; rs_local, n numbers that they share
   RS_EACH(i, count) { .. }                                   one number of many for each work-item */
#ifdef RS_WALK
#define RS_KERNEL static inline void
#define RS_PLACE , const int rs_group, const int rs_groups, __local float *rs_local
#define RS_LOCAL(numbers)
#ifdef RS_SPANS /* groups of one work-item: neighbours for each */
#define RS_FROM(group, count) (int)((long)(count) * (group) / rs_groups)
#define RS_EACH(i, count)                                                                                              \
    for (int i = RS_FROM(rs_group, count), i##_end = RS_FROM(rs_group + 1, count); i < i##_end; i++)
#else
#define RS_EACH(i, count)                                                                                              \
    for (int i = rs_group * (int)get_local_size(0) + (int)get_local_id(0); i < (count);                                \
         i += rs_groups * (int)get_local_size(0))
#endif
#else
#define RS_KERNEL __kernel void
#define RS_PLACE
#define rs_group ((int)get_group_id(0))
#define rs_groups ((int)get_num_groups(0))
#define RS_LOCAL(numbers) __local float rs_local[numbers] __attribute__((aligned(16)));
#define RS_EACH(i, count)                                                                                              \
    const int i = get_global_id(0);                                                                                    \
    if (i < (count))
#endif

/* max(x, 0), then min(.., 6). A comparison with NaN is false, so NaN stays NaN. */
static inline float rs_activate(float x, int activation) {
    if (activation) x = x < 0 ? 0 : x;
    if (activation == 2) x = x > 6 ? 6 : x;
    return x;
}

/* Where a weight's tap lies in the input: -1 outside, where it contributes nothing. */
static inline int rs_tap(int start, int tap, int stride, int dilation, int before, int size) {
    const int at = start * stride + tap * dilation - before;
    return at < 0 || at >= size ? -1 : at;
}
