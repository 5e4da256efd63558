/* What becomes of a finished sum of values * (x - zero_point) and the rounded bias.

       float32 output   y = activation(float32(acc) * unit[k])
       int8 output      y = clamp(((acc * m0[k] + 2^(shift[k]-1)) >> shift[k]) + zero[k], low[k], high[k])   in 64 bits

   Whole numbers up to the last step, so every kernel and device gives the bits of refstack/formats/int8.py.

   Packed     requant  int32 (5, K)  m0, shift, zero, low, high; all zero in lanes beyond k;  unit  float32 (K,) */
#ifndef RS_INT8
#define RS_INT8
static inline char rs_requantize(int acc, __global const int *requant, int k, int K) {
    const int shift = requant[K + k];
    const long rounded = shift ? ((long)acc * requant[k] + (1L << (shift - 1))) >> shift : 0;
    return (char)clamp(rounded + requant[2 * K + k], (long)requant[3 * K + k], (long)requant[4 * K + k]);
}

static inline void rs_finish(__global void *y, int at, int acc, __global const int *requant, __global const float *unit,
                      int k, int K, rs_args a) {
    if (a.to_int8) ((__global char *)y)[at] = rs_requantize(acc, requant, k, K);
    else ((__global float *)y)[at] = rs_activate((float)acc * unit[k], a.activation);
}

/* acc + four products of signed bytes. NVIDIA's compiler does not find its instruction for that by itself. */
static inline int rs_dp4a(int x, int w, int acc) {
#ifdef __NV_CL_C_VERSION
    asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(acc) : "r"(x), "r"(w));
    return acc;
#else
    const char4 a = as_char4(x), b = as_char4(w);
    return acc + a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
#endif
}

/* The sum of filter k at pixel `at`: finished, or left to be added to those of other parts. */
static inline void rs_put_int8(__global void *y, __global int *sums, int k, int at, int sum, int part,
                               __global const int *start, __global const int *requant, __global const float *unit,
                               rs_args a) {
    const int pixels = a.p * a.q, all = a.n * pixels;
    if (a.parts > 1) sums[((size_t)part * a.k + k) * all + at] = sum;
    else rs_finish(y, (at / pixels * a.k + k) * pixels + at % pixels, start[k] + sum, requant, unit, k, a.k, a);
}
#endif
