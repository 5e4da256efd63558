/* What becomes of a finished sum of values * (x - zero_point) and the rounded bias.

       float32 output   y = activation(float32(acc) * unit[k])
       int8 output      y = clamp(((acc * m0[k] + 2^(shift[k]-1)) >> shift[k]) + zero[k], low[k], high[k])   in 64 bits

   Whole numbers up to the last step, so every kernel and device gives the bits of refstack/formats/int8.py.

   Packed     requant  int32 (5, K)  m0, shift, zero, low, high; all zero in lanes beyond k;  unit  float32 (K,) */
#ifndef RS_INT8
#define RS_INT8
inline char rs_requantize(int acc, __global const int *requant, int k, int K) {
    const int shift = requant[K + k];
    const long rounded = shift ? ((long)acc * requant[k] + (1L << (shift - 1))) >> shift : 0;
    return (char)clamp(rounded + requant[2 * K + k], (long)requant[3 * K + k], (long)requant[4 * K + k]);
}

inline void rs_finish(__global void *y, int at, int acc, __global const int *requant, __global const float *unit,
                      int k, int K, rs_args a) {
    if (a.to_int8) ((__global char *)y)[at] = rs_requantize(acc, requant, k, K);
    else ((__global float *)y)[at] = rs_activate((float)acc * unit[k], a.activation);
}
#endif
