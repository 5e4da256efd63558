/* The fully connected layer, V output features a vector.

       y[n,k] = activation(bias[k] + sum over c of x[n,c] * w[k,c])

   The sum over c is cut into four chains that are added at the end, since one chain would wait for itself.

   Reads      x (n, c);  bias (k rounded up to V,);  w [k / V][c][V k] in a FORMAT of rs_weights_cpu.cl
   Writes     y (n, k)
   Work-item  one block of V features, all images
   Cost       n*k*c multiply-adds; at n = 1 the weights' bandwidth bounds it */
#include "rs_cpu.cl"
#include "rs_weights_cpu.cl"

/* IMAGES of them against one block. */
RS_INLINE void block(__global const float *x, __global const rs_stored *w, rs_vec table, rs_vec b, __global float *y,
                     rs_args a, int features, const int IMAGES) {
    rs_vec sum[4][4];
#define START(i) sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = 0;
    EACH_4(START)
    int c = 0;
#define ADD(i, j) if (i < IMAGES) sum[i][j] = (rs_vec)(x[i * a.c + c + j]) * w##j + sum[i][j];
#define ADD_0(j) ADD(0, j)
#define ADD_1(j) ADD(1, j)
#define ADD_2(j) ADD(2, j)
#define ADD_3(j) ADD(3, j)
    for (; c + 4 <= a.c; c += 4) {
        const rs_vec w0 = rs_weights(w + c * STORED, table), w1 = rs_weights(w + (c + 1) * STORED, table);
        const rs_vec w2 = rs_weights(w + (c + 2) * STORED, table), w3 = rs_weights(w + (c + 3) * STORED, table);
        EACH_4(ADD_0) EACH_4(ADD_1) EACH_4(ADD_2) EACH_4(ADD_3)
    }
    for (; c < a.c; c++) {
        const rs_vec w0 = rs_weights(w + c * STORED, table);
        ADD(0, 0) ADD(1, 0) ADD(2, 0) ADD(3, 0)
    }
#define FINISH(i)                                                                                                      \
    if (i < IMAGES) {                                                                                                  \
        rs_lanes sums;                                                                                                 \
        sums.v = rs_activate_all(b + sum[i][0] + sum[i][1] + sum[i][2] + sum[i][3], a.activation);                     \
        for (int j = 0; j < features; j++) y[i * a.k + j] = sums.lane[j];                                              \
    }
    EACH_4(FINISH)
}

RS_ALONE linear_cpu(__global const float *x, __global float *y, __global const float *bias,
                    __global const rs_stored *w TABLE, const rs_args a RS_WHICH) {
    const int kb = rs_item(0), features = min(V, a.k - kb * V);
    const rs_vec table = LOOK_UP, b = rs_load(bias + kb * V);
    w += kb * a.c * STORED, y += kb * V;
    int n = 0;
    for (; n + 4 <= a.n; n += 4) block(x + n * a.c, w, table, b, y + n * a.k, a, features, 4);
    for (; n < a.n; n++) block(x + n * a.c, w, table, b, y + n * a.k, a, features, 1);
}
