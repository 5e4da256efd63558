/* The input of a sparse convolution, laid out so that every tap is one run of pixels.

   For a tap (c, r, s) a filter needs x[c, p*st + r*dl - top, q*st + s*dl - left] for all (p, q). Write down, once for
   every (c, s), the rows that such taps can ask for, already shifted by s, strided and padded:

       planes   [c][s][residue of the row, mod st][rows][q]        rows = p + (r-1)*dl/st

   Then rows p = 0, 1, .. of tap r are neighbours, and the p*q pixels of a tap start at

       offset(c,r,s) = (((c*S + s)*st + r*dl mod st)*rows + r*dl div st) * q        (packing.offsets)

   whatever the stride, the dilation and the size of the map: S copies of the image instead of the R*S of im2col.
   Behind the last one lie RS_V numbers that a last, partly filled vector may read; what it makes of them is dropped. */
#ifndef RS_PLANES_H
#define RS_PLANES_H

#include "rs.h"

RS_INLINE int64_t rs_plane_rows(const rs_args *a) { return a->p + (a->r - 1) * a->dl[0] / a->st[0]; }

/* True where x itself has that form: 1x1 filters at stride 1, and planes that are whole vectors. */
RS_INLINE int rs_planes_are_x(const rs_args *a) {
    return a->r * a->s == 1 && a->st[0] == 1 && a->st[1] == 1 && !rs_padded(a) && a->h * a->w % RS_V == 0;
}

/* The planes of image n: x itself, or a copy in scratch. Ends with a barrier. */
RS_INLINE const float *rs_planes(const rs_args *a, int64_t n) {
    const float *x = (const float *)a->x[0] + n * a->c * a->h * a->w;
    if (rs_planes_are_x(a)) return x;
    const int64_t rows = rs_plane_rows(a), st = a->st[0];
    float *to = a->scratch;
#pragma omp for collapse(2) schedule(static)
    for (int64_t c = 0; c < a->c; c++)
        for (int64_t s = 0; s < a->s; s++) {
            const int64_t shift = s * a->dl[1] - a->pd[1];
            const int64_t first = rs_min(a->q, shift < 0 ? rs_ceil(-shift, a->st[1]) : 0);
            const int64_t last = a->w > shift ? rs_max(first, rs_min(a->q, rs_ceil(a->w - shift, a->st[1]))) : first;
            for (int64_t residue = 0; residue < st; residue++)
                for (int64_t i = 0; i < rows; i++) {
                    const int64_t h = i * st + residue - a->pd[0];
                    float *row = to + (((c * a->s + s) * st + residue) * rows + i) * a->q;
                    if (h < 0 || h >= a->h) {
                        memset(row, 0, sizeof(float) * a->q);
                        continue;
                    }
                    const float *line = x + (c * a->h + h) * a->w + shift;
                    for (int64_t q = 0; q < first; q++) row[q] = 0;
                    if (a->st[1] == 1) memcpy(row + first, line + first, sizeof(float) * (last - first));
                    else for (int64_t q = first; q < last; q++) row[q] = line[q * a->st[1]];
                    for (int64_t q = last; q < a->q; q++) row[q] = 0;
                }
        }
    return to;
}

/* Write a vector of pixels at i, less what lies behind the last of the plane. */
RS_INLINE void rs_store_pixels(float *y, int64_t i, int64_t pixels, rs_vec v) {
    if (i + RS_V <= pixels) rs_store(y + i, v);
    else memcpy(y + i, &v, sizeof(float) * rs_max(0, pixels - i));
}

#endif
