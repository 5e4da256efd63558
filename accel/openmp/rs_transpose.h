/* Square matrices of vectors, turned around in registers. */
#ifndef RS_TRANSPOSE_H
#define RS_TRANSPOSE_H

#include "rs.h"

/* Lane i of the result is lane index[i] of a and b, one behind the other. */
RS_INLINE rs_vec rs_choose(rs_vec a, rs_vec b, rs_ivec index) {
#ifdef __clang__
    rs_vec v;
    for (int i = 0; i < RS_V; i++) v[i] = index[i] < RS_V ? a[index[i]] : b[index[i] - RS_V];
    return v;
#else
    return __builtin_shuffle(a, b, index);
#endif
}

/* RS_V rows of RS_V numbers: m[j][i] = m[i][j]. Blocks of half a matrix off the diagonal change places, then those of a
   quarter in each of the four, and so on. */
RS_INLINE void rs_transpose_vectors(rs_vec *m) {
    RS_UNROLL for (int half = RS_V / 2; half; half /= 2) {
        rs_ivec upper = {0}, lower = {0};
        RS_UNROLL for (int i = 0; i < RS_V; i++) {
            upper[i] = i & half ? RS_V + i - half : i;
            lower[i] = i & half ? RS_V + i : i + half;
        }
        RS_UNROLL for (int i = 0; i < RS_V; i++) {
            if (i & half) continue;
            const rs_vec a = m[i], b = m[i + half];
            m[i] = rs_choose(a, b, upper), m[i + half] = rs_choose(a, b, lower);
        }
    }
}

/* The same of rows at distances `from` and `to`. */
RS_INLINE void rs_transpose(const float *x, int64_t from, float *y, int64_t to) {
    rs_vec m[RS_V];
    RS_UNROLL for (int i = 0; i < RS_V; i++) m[i] = rs_load(x + i * from);
    rs_transpose_vectors(m);
    RS_UNROLL for (int i = 0; i < RS_V; i++) rs_store(y + i * to, m[i]);
}

/* y[i][j] = x[j][i] for `rows` rows of y; of their `lanes` numbers those from `columns` on are zeros. */
RS_INLINE void rs_turn(const float *x, int64_t from, float *y, int64_t to, int64_t rows, int64_t columns,
                       int64_t lanes) {
    if (rows == RS_V && columns == RS_V) rs_transpose(x, from, y, to);
    else for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < lanes; j++) y[i * to + j] = j < columns ? x[j * from + i] : 0;
}

#endif
