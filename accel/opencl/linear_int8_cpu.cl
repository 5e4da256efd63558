/* The integer fully connected layer, V output features a vector, four products a lane.

       acc = sum over c of  values[k,c] * (x[n,c] - zero_point) + bias;   y = the rule of rs_int8.cl

   Reads      x int8 (n, c);  w int8 [k / V][c / 4][V k][4 c], zeros beyond k and c;  sizes int64 {1, zero_point};
              start, requant, unit of rs_int8_cpu.cl
   Writes     y (n, k), int8 or float32
   Work-item  one block of V features, all images
   Cost       n*k*c multiply-adds; at n = 1 the weights' bandwidth bounds it; bitwise */
#include "rs_cpu.cl"
#include "rs_int8.cl"
#include "rs_int8_cpu.cl"

RS_ALONE linear_int8_cpu(__global const char *x, __global void *y, __global const int *w, __global const long *sizes,
                         __global const int *start, __global const int *requant, __global const float *unit,
                         const rs_args a RS_WHICH) {
    const int kb = rs_item(0), K = rs_ceil(a.k, V) * V;
    w += kb * rs_ceil(a.c, 4) * V;
    for (int n = 0; n < a.n; n++, x += a.c) {
        rs_ivec sum = rs_load_int(start + kb * V), other = 0;
        int c = 0;
        for (; c + 8 <= a.c; c += 8) {
            __global const uchar *at = (__global const uchar *)x + c;
            sum = rs_dot4_all(sum, rs_four(at) ^ 0x80808080, rs_load_int(w + c / 4 * V));
            other = rs_dot4_all(other, rs_four(at + 4) ^ 0x80808080, rs_load_int(w + (c / 4 + 1) * V));
        }
        for (; c < a.c; c += 4) {
            int four = 0; /* what lies beyond c meets weights of zero */
            for (int i = 0; i < 4 && c + i < a.c; i++) four |= ((uchar)x[c + i] ^ 128) << 8 * i;
            sum = rs_dot4_all(sum, four, rs_load_int(w + c / 4 * V));
        }
        union {
            rs_ivec v;
            int lane[V];
        } sums = {.v = sum + other};
        for (int i = 0; i < V && kb * V + i < a.k; i++)
            rs_finish(y, n * a.k + kb * V + i, sums.lane[i], requant, unit, kb * V + i, K, a);
    }
}
