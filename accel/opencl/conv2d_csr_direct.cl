/* The plain sparse loop: any stride, padding, dilation and number of groups.

       y[n,k,p,q] = activation(bias[k] + sum over the stored weights of row k of  x[n, c, p*st + r*dl - top, ..] * w)

   Reads      x nchw;  bias (k,);  indptr int32 (k+1,);  taps int32 (nnz, 3) as c, r, s;  values float32 (nnz,)
   Writes     y nchw
   Work-item  one number of y
   Cost       n*p*q * nnz multiply-adds, five loads each: bound by loads */
RS_KERNEL conv2d_csr_direct(__global const float *x, __global float *y, __global const float *bias,
                            __global const int *indptr, __global const int *taps, __global const float *values,
                            const rs_args a RS_PLACE) {
    RS_EACH(i, a.n * a.k * a.p * a.q) {
        const int q = i % a.q, p = i / a.q % a.p, k = i / (a.q * a.p) % a.k, n = i / (a.q * a.p * a.k);
        const int first = n * a.c + k / (a.k / a.g) * (a.c / a.g);
        float sum = bias[k];
        for (int j = indptr[k]; j < indptr[k + 1]; j++) {
            const int h = rs_tap(p, taps[3 * j + 1], a.st0, a.dl0, a.pd0, a.h);
            const int v = rs_tap(q, taps[3 * j + 2], a.st1, a.dl1, a.pd1, a.w);
            if (h >= 0 && v >= 0) sum = fma(x[((first + taps[3 * j]) * a.h + h) * a.w + v], values[j], sum);
        }
        y[i] = rs_activate(sum, a.activation);
    }
}
