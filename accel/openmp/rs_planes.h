/* The input of a sparse convolution, laid out so that the pixels of every tap are one run.

   A stored weight (c, r, s) needs x[c, p*st + r*dl - top, q*st + s*dl - left] for all (p, q). Write down, for every
   c and s, the padded rows at those columns, sorted by their residue modulo the stride: then rows p = 0, 1, .. of a tap
   are neighbours, and its p*q pixels follow each other, whatever the stride, the dilation and the size of the map:

       planes   [c][row mod st][s][rows][q]          rows = p + (r-1)*dl / st

   Tap (c, r, s) starts at offset(c,r,s) (packing.Planes.offsets). That is S copies of the image where im2col makes R*S.
   Behind the last plane lie RS_V numbers that a last, partly filled vector may read; what it makes of them is
   dropped. */
#ifndef RS_PLANES_H
#define RS_PLANES_H

#include "rs.h"

/* The q for which 0 <= q*st + shift < w are first .. last - 1, of `count`. */
typedef struct {
    int64_t first, last, shift, st, count;
} rs_columns;

RS_INLINE rs_columns rs_columns_of(const rs_args *a, int64_t s) {
    rs_columns m = {.shift = s * a->dl[1] - a->pd[1], .st = a->st[1], .count = a->q};
    const int64_t from = rs_max(0, -m.shift), to = rs_max(0, a->w - m.shift);
    m.first = rs_min(a->q, m.st == 1 ? from : rs_ceil(from, m.st)); /* a division takes as long as a small plane */
    m.last = rs_max(m.first, rs_min(a->q, m.st == 1 ? to : rs_ceil(to, m.st)));
    return m;
}

/* One row: the image's pixels at these columns, zeros left and right of it. Nothing is read from `end` on. */
RS_INLINE void rs_plane_row(float *row, const float *line, const float *end, rs_columns m) {
    int64_t q = 0;
    for (; q < m.first; q++) row[q] = 0;
    if (m.st == 1)
        for (; q + RS_V <= m.last; q += RS_V) rs_store(row + q, rs_load(line + q + m.shift));
    if (m.st == 2) { /* the even ones of RS_V neighbours, half a vector */
        rs_ivec even = {0};
        for (int i = 0; i < RS_V / 2; i++) even[i] = 2 * i;
        for (; q + RS_V / 2 <= m.last && line + 2 * q + m.shift + RS_V <= end; q += RS_V / 2) {
            const rs_vec v = rs_look_up(rs_load(line + 2 * q + m.shift), even);
            memcpy(row + q, &v, sizeof(float) * RS_V / 2);
        }
    }
    for (; q < m.last; q++) row[q] = line[q * m.st + m.shift];
    for (; q < m.count; q++) row[q] = 0;
}

/* A plane at stride 1 whose rows are as wide as the image's: one run, then zeros at the sides. Small maps have too many
   rows to copy them one by one. */
RS_INLINE void rs_plane_run(float *plane, const rs_args *a, const float *x, rs_columns m, int64_t rows) {
    const int64_t h = a->h, w = a->w, end = h * w - rs_max(0, m.shift);
    float *inside = plane + a->pd[0] * w;
    int64_t i = rs_max(0, -m.shift);
    memset(plane, 0, sizeof(float) * a->pd[0] * w);
    memset(inside + h * w, 0, sizeof(float) * (rows - a->pd[0] - h) * w);
    for (; i + RS_V <= end; i += RS_V) rs_store(inside + i, rs_load(x + i + m.shift));
    for (; i < end; i++) inside[i] = x[i + m.shift];
    for (int64_t q = 0; q < m.first; q++)
        for (i = 0; i < h; i++) inside[i * w + q] = 0;
    for (int64_t q = m.last; q < w; q++)
        for (i = 0; i < h; i++) inside[i * w + q] = 0;
}

/* The planes of image n: x itself where it has that form already, else a copy in scratch. Ends with a barrier. */
RS_INLINE const float *rs_make_planes(const rs_args *a, int64_t n) {
    const float *image = (const float *)a->x[0] + n * a->c * a->h * a->w;
    if (a->r * a->s == 1 && a->st[0] == 1 && a->st[1] == 1 && !rs_padded(a) && a->h * a->w % RS_V == 0) return image;
    const int64_t rows = a->p + (a->r - 1) * a->dl[0] / a->st[0];
    const int run = a->st[0] == 1 && a->st[1] == 1 && a->q == a->w;
#pragma omp for schedule(static)
    for (int64_t c = 0; c < a->c; c++)
        for (int64_t s = 0; s < a->s; s++) {
            const float *x = image + c * a->h * a->w;
            const rs_columns m = rs_columns_of(a, s);
            for (int64_t residue = 0; residue < a->st[0]; residue++) {
                float *plane = (float *)a->scratch + ((c * a->st[0] + residue) * a->s + s) * rows * a->q;
                if (run) rs_plane_run(plane, a, x, m, rows);
                else for (int64_t i = 0; i < rows; i++) {
                    const int64_t h = i * a->st[0] + residue - a->pd[0];
                    if (h < 0 || h >= a->h) memset(plane + i * a->q, 0, sizeof(float) * a->q);
                    else rs_plane_row(plane + i * a->q, x + h * a->w, image + a->c * a->h * a->w, m);
                }
            }
        }
    return a->scratch;
}

/* The first `count` numbers of a vector. */
RS_INLINE rs_vec rs_load_some(const float *y, int64_t count) {
    rs_vec v = {0};
    if (count == RS_V) return rs_load(y);
    memcpy(&v, y, sizeof(float) * count);
    return v;
}
RS_INLINE void rs_store_some(float *y, rs_vec v, int64_t count) {
    if (count == RS_V) rs_store(y, v);
    else memcpy(y, &v, sizeof(float) * count);
}

#endif
