/* The input of a sparse convolution, laid out so that the pixels of every tap are one run.

   A stored weight (c, r, s) needs x[c, p*st + r*dl - top, q*st + s*dl - left] for all (p, q) of a tile. Write down, for
   every c and s, the padded rows at those columns, sorted by their residue modulo the stride: then rows p, p + 1, .. of
   a tap are neighbours, and its pixels follow each other, whatever the stride, the dilation and the size of the map:

       planes     [c][row mod st][s][rows][q]      rows = those of a tile + (r-1)*dl / st

   Tap (c, r, s) of the row's first pixel is at offset(c,r,s) (packing_sparse.Planes.offsets). That is S copies of the
   image where im2col makes R*S.

       unfolded   [c][r][s][RS_V]                  where a map is one vector: loads of a whole cache line

   Planes are made for one tile of pixels and one block of channels at a time, in a buffer that stays in the first
   cache. A last, partly filled vector may read what lies behind the last plane; what it makes of that is dropped. */
#ifndef RS_PLANES_H
#define RS_PLANES_H

#include "rs.h"

enum {
    RS_TILE = 8,      /* vectors of pixels in a tile */
    RS_ROOM = 32768,  /* numbers in a buffer; packing_sparse.ROOM */
    RS_UNFOLD = 1024, /* numbers of one channel's planes that may be unfolded; packing_sparse.UNFOLD */
};

typedef struct {
    int64_t rows, channel; /* of a tile's planes; numbers from one channel to the next */
    int direct, unfolded;  /* the image has that form already; see above */
} rs_planes;

RS_INLINE rs_planes rs_planes_of(const rs_args *a) {
    const int64_t pixels = a->p * a->q, span = RS_TILE * RS_V;
    rs_planes m = {.rows = a->p};
    m.direct = a->r * a->s == 1 && a->st[0] == 1 && a->st[1] == 1 && !rs_padded(a) && pixels % RS_V == 0;
    if (pixels > span && !m.direct) m.rows = rs_min(a->p, span % a->q ? (span + a->q - 2) / a->q + 1 : span / a->q);
    m.rows += (a->r - 1) * a->dl[0] / a->st[0];
    m.channel = a->st[0] * a->s * m.rows * a->q;
    m.unfolded = pixels == RS_V && !m.direct && m.channel <= RS_UNFOLD;
    if (m.unfolded) m.channel = a->r * a->s * RS_V;
    return m;
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

/* Rows `top` .. of a plane at stride 1 that is as wide as the image: one run, then zeros at the sides. Small maps have
   too many rows to copy them one by one. Up to RS_V numbers behind the plane are overwritten. */
RS_INLINE void rs_plane_run(float *plane, const rs_args *a, const float *x, rs_columns m, int64_t top, int64_t rows) {
    const int64_t w = a->w, above = rs_min(rows, rs_max(0, -top)), below = rs_min(rows, rs_max(above, a->h - top));
    float *inside = plane + above * w;
    const float *from = x + (top + above) * w + m.shift;
    const int64_t count = (below - above) * w, end = count - rs_max(0, m.shift);
    int64_t i;
    for (i = 0; i < above * w; i += RS_V) rs_store(plane + i, (rs_vec){0});
    for (i = below * w; i < rows * w; i += RS_V) rs_store(plane + i, (rs_vec){0});
    i = rs_max(0, -m.shift);
    if (i + RS_V <= end) {
        for (; i + RS_V <= end; i += RS_V) rs_store(inside + i, rs_load(from + i));
        rs_store(inside + end - RS_V, rs_load(from + end - RS_V)); /* what is left, and some of it again */
    } else for (; i < end; i++) inside[i] = from[i];
    for (int64_t q = 0; q < m.first; q++)
        for (i = 0; i < count; i += w) inside[i + q] = 0;
    for (int64_t q = m.last; q < w; q++)
        for (i = 0; i < count; i += w) inside[i + q] = 0;
}

/* The planes of one channel, whose image is x; the first row is that of output row p. */
RS_INLINE void rs_channel(const rs_args *a, const float *x, const float *end, float *planes, int64_t p, int64_t rows) {
    const int run = a->st[0] == 1 && a->st[1] == 1 && a->q == a->w;
    for (int64_t residue = 0; residue < a->st[0]; residue++)
        for (int64_t s = 0; s < a->s; s++, planes += rows * a->q) {
            const rs_columns m = rs_columns_of(a, s);
            if (run) rs_plane_run(planes, a, x, m, p - a->pd[0], rows);
            else for (int64_t i = 0; i < rows; i++) {
                const int64_t h = (p + i) * a->st[0] + residue - a->pd[0];
                if (h < 0 || h >= a->h) memset(planes + i * a->q, 0, sizeof(float) * a->q);
                else rs_plane_row(planes + i * a->q, x + h * a->w, end, m);
            }
        }
}

/* One channel's planes, unfolded or not. Up to RS_V numbers behind them are overwritten. */
RS_INLINE void rs_one(const rs_args *a, const rs_planes *m, const float *x, const float *end, float *to, int64_t p) {
    if (!m->unfolded) {
        rs_channel(a, x, end, to, p, m->rows);
        return;
    }
    float folded[RS_UNFOLD + RS_V];
    rs_channel(a, x, end, folded, 0, m->rows);
    for (int64_t r = 0; r < a->r; r++) {
        const int64_t down = r * a->dl[0] / a->st[0], residue = r * a->dl[0] % a->st[0];
        for (int64_t s = 0; s < a->s; s++, to += RS_V)
            rs_store(to, rs_load(folded + ((residue * a->s + s) * m->rows + down) * a->q));
    }
}

/* Channels whose image is one vector: where each number of the planes comes from is the same for all of them, and is
   found by making the planes of an image of numbers that say where they stand. */
RS_INLINE void rs_tiny(const rs_args *a, const rs_planes *m, const float *x, const float *end, int64_t channels,
                       float *buffer) {
    const int64_t plane = a->h * a->w, vectors = rs_ceil(m->channel, RS_V);
    rs_ivec lane[RS_UNFOLD / RS_V + 1], there[RS_UNFOLD / RS_V + 1];
    float where[2 * RS_V] = {0}, planes[RS_UNFOLD + 2 * RS_V];
    for (int64_t i = 0; i < plane; i++) where[i] = (float)(i + 1); /* 0 is padding */
    rs_one(a, m, where, where + plane, planes, 0);
    for (int64_t i = 0; i < vectors; i++) {
        const rs_ivec from = __builtin_convertvector(rs_load(planes + i * RS_V), rs_ivec);
        lane[i] = from - 1, there[i] = from > 0;
    }
    for (int64_t c = 0; c < channels; c++, buffer += m->channel) {
        const float *one = x + c * plane; /* whatever follows it in the vector is in no lane */
        const rs_vec v = end - one < RS_V ? rs_load_some(one, plane) : rs_load(one);
        for (int64_t i = 0; i < vectors; i++)
            rs_store(buffer + i * RS_V, (rs_vec)((rs_ivec)rs_look_up(v, lane[i]) & there[i]));
    }
}

/* Channels first .. last - 1 of image n, from output row p on: in the buffer, or where they are. */
RS_INLINE const float *rs_make_planes(const rs_args *a, const rs_planes *m, int64_t n, int64_t first, int64_t last,
                                      int64_t p, float *buffer) {
    const int64_t plane = a->h * a->w;
    const float *image = (const float *)a->x[0] + n * a->c * plane, *end = image + a->c * plane;
    if (m->direct) return image + first * plane;
    if (plane <= RS_V && m->channel <= RS_UNFOLD) rs_tiny(a, m, image + first * plane, end, last - first, buffer);
    else for (int64_t c = first; c < last; c++)
        rs_one(a, m, image + c * plane, end, buffer + (c - first) * m->channel, p);
    return buffer;
}

#endif
