/* Layers that weigh nothing, number by number, in any layout: a plane is (h, w, lanes), lanes = 1 in nchw.

       relu       y = activation(x)                      add        y = activation(x0 + x1)
       batchnorm  y = (x - mean[c]) * a[c] + bias[c]     reorder    y = x in another layout
       maxpool    y = the largest of each window; NaN if there is one       avgpool, globalavgpool   the mean
       quantize   y = clamp(round_half_even(x / scale) + zero_point, -128, 127) in double;  NaN gives -128

   Reads      x, or x0 and x1;  batchnorm: bias, mean, a (c rounded up to lanes,);  avgpool: int64 {count_include_pad};
              quantize: double {scale}, int64 {zero_point}
   Writes     y, lanes beyond c as zeros
   Work-item  one number of y
   Cost       bandwidth */
#if DOUBLES
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif

/* Numbers of the input, or of an output of `pixels` a plane. */
#define NUMBERS(pixels, lanes) (a.n * ((a.c + (lanes) - 1) / (lanes)) * (pixels) * (lanes))

RS_KERNEL relu(__global const float *x, __global float *y, const rs_args a RS_PLACE) {
    RS_EACH(i, NUMBERS(a.h * a.w, a.x_block)) y[i] = rs_activate(x[i], a.activation);
}

RS_KERNEL add(__global const float *x0, __global const float *x1, __global float *y, const rs_args a RS_PLACE) {
    RS_EACH(i, NUMBERS(a.h * a.w, a.x_block)) y[i] = rs_activate(x0[i] + x1[i], a.activation);
}

RS_KERNEL batchnorm(__global const float *x, __global float *y, __global const float *bias,
                    __global const float *mean, __global const float *scale, const rs_args a RS_PLACE) {
    const int lanes = a.x_block, plane = a.h * a.w * lanes;
    RS_EACH(i, NUMBERS(a.h * a.w, lanes)) {
        const int c = i / plane % ((a.c + lanes - 1) / lanes) * lanes + i % lanes;
        y[i] = fma(x[i] - mean[c], scale[c], bias[c]);
    }
}

/* The pixels of output i's window: calls f(h, w) for those inside the image. */
#define WINDOW(f)                                                                                                      \
    const int lanes = a.x_block;                                                                                       \
    const int lane = i % lanes, q = i / lanes % a.q, p = i / (lanes * a.q) % a.p, plane = i / (lanes * a.q * a.p);     \
    const int first = plane * a.h * a.w * lanes + lane;                                                                \
    for (int r = 0; r < a.r; r++) {                                                                                    \
        const int h = rs_tap(p, r, a.st0, a.dl0, a.pd0, a.h);                                                          \
        for (int s = 0; s < a.s && h >= 0; s++) {                                                                      \
            const int w = rs_tap(q, s, a.st1, a.dl1, a.pd1, a.w);                                                      \
            if (w >= 0) f(x[first + (h * a.w + w) * lanes]);                                                           \
        }                                                                                                              \
    }

RS_KERNEL maxpool_float32(__global const float *x, __global float *y, const rs_args a RS_PLACE) {
    RS_EACH(i, NUMBERS(a.p * a.q, a.x_block)) {
        float most = -INFINITY;
#define LARGEST(v) most = v > most || v != v ? v : most
        WINDOW(LARGEST)
        y[i] = most;
    }
}

RS_KERNEL maxpool_int8(__global const char *x, __global char *y, const rs_args a RS_PLACE) {
    RS_EACH(i, NUMBERS(a.p * a.q, a.x_block)) {
        char most = -128;
#define LARGER(v) most = v > most ? v : most
        WINDOW(LARGER)
        y[i] = most;
    }
}

RS_KERNEL avgpool(__global const float *x, __global float *y, __global const long *include_pad,
                  const rs_args a RS_PLACE) {
    RS_EACH(i, NUMBERS(a.p * a.q, a.x_block)) {
        float sum = 0;
        int inside = 0;
#define COUNTED(v) sum += v, inside++
        WINDOW(COUNTED)
        y[i] = sum / (include_pad[0] ? a.r * a.s : inside);
    }
}

RS_KERNEL globalavgpool(__global const float *x, __global float *y, const rs_args a RS_PLACE) {
    const int lanes = a.x_block, pixels = a.h * a.w;
    RS_EACH(i, NUMBERS(1, lanes)) {
        const int first = i / lanes * pixels * lanes + i % lanes;
        float sum = 0;
        for (int j = 0; j < pixels; j++) sum += x[first + j * lanes];
        y[i] = sum / pixels;
    }
}

#if DOUBLES
RS_KERNEL quantize(__global const float *x, __global char *y, __global const double *scale,
                   __global const long *zero_point, const rs_args a RS_PLACE) {
    const int lanes = a.x_block;
    RS_EACH(i, NUMBERS(a.h * a.w, lanes)) {
        const int c = i / (a.h * a.w * lanes) % ((a.c + lanes - 1) / lanes) * lanes + i % lanes;
        const double v = rint((double)x[i] / scale[0]) + zero_point[0];
        y[i] = c >= a.c ? 0 : v > -128 ? (char)(v < 127 ? v : 127) : -128;
    }
}
#endif

/* Numbers of nchw to and from lanes side by side; what lies beyond c is zeros. */
#define REORDER(name, type)                                                                                            \
    RS_KERNEL name(__global const type *x, __global type *y, const rs_args a RS_PLACE) {                               \
        const int from = a.x_block, to = a.y_block, pixels = a.h * a.w, blocks = (a.c + to - 1) / to;                  \
        RS_EACH(i, NUMBERS(pixels, to)) {                                                                              \
            const int plane = i / (pixels * to), pixel = i / to % pixels, n = plane / blocks;                          \
            const int c = plane % blocks * to + i % to;                                                                \
            y[i] = c < a.c ? x[((n * ((a.c + from - 1) / from) + c / from) * pixels + pixel) * from + c % from] : 0;   \
        }                                                                                                              \
    }
REORDER(reorder_float32, float)
REORDER(reorder_int8, char)
