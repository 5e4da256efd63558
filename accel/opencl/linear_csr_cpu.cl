/* The sparse fully connected layer, a stored weight at a time.

       y[n,k] = activation(bias[k] + sum over the stored weights of row k of  x[n, column] * value)

   The sum is cut into four chains that are added at the end, since one chain would wait for itself.

   Reads      x (n, c);  bias (k,);  indptr int32 (k+1,);  columns int32 (nnz,);  values float32 (nnz,)
   Writes     y (n, k)
   Work-item  16 features of one image
   Cost       n * nnz multiply-adds, three loads each: bound by loads */
#include "rs_cpu.cl"

RS_ALONE linear_csr_cpu(__global const float *x, __global float *y, __global const float *bias,
                        __global const int *indptr, __global const int *columns, __global const float *values,
                        const rs_args a RS_WHICH) {
    const int first = rs_item(0) * 16, end = min(a.k, first + 16), n = rs_item(1);
    x += n * a.c;
    for (int k = first; k < end; k++) {
        float sum[4] = {bias[k], 0, 0, 0};
        int j = indptr[k];
        const int stop = indptr[k + 1];
#define CHAIN(i) sum[i] = x[columns[j + i]] * values[j + i] + sum[i];
        for (; j + 4 <= stop; j += 4) { EACH_4(CHAIN) }
        for (; j < stop; j++) { CHAIN(0) }
        y[n * a.k + k] = rs_activate((sum[0] + sum[1]) + (sum[2] + sum[3]), a.activation);
    }
}
