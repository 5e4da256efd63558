/* A register tile: KB blocks of V output channels x PX neighbouring pixels, all of their sums in registers.

                 pixel 0   pixel 1  ..            24 sums (12 before AVX-512): enough that are independent to hide the
       k  0..15   sum00     sum01                 latency of a multiply-add, few enough to stay in registers
       k 16..31   sum10     sum11

   For one (c, r, s) it loads KB vectors of weights, broadcasts PX inputs and does KB*PX multiply-adds.

   AHEAD, if it is defined: how many weights ahead of their use they are fetched.

   Weights    [k / (KB*V)][c / VIN][r][s][VIN c][KB][V k], VIN = V, or 1 where x is plain nchw; groups narrower than KB
              at the end (rs_span) */
#include "rs_weights_cpu.cl"

#ifdef __AVX512F__
#define SUMS 24
#else
#define SUMS 6 /* of two or four registers each */
#endif

typedef struct {
    __global const float *x, *bias; /* of this image, this group of blocks; no bias: sums start from 0 */
    __global const rs_stored *w; /* behind them lie the next group's */
    __global float *y;
    rs_vec table;
    int tiles;                                    /* of this group, before this line */
    int blocks, h, top, r, s, st, dh, activation; /* ceil(c/VIN); rows of x, of padding above it */
    int line, residue;                            /* numbers of a row of x; of one residue of its columns */
    int sw, dw, next;                             /* stride and dilation of columns; numbers from block to block of y */
} rs_image;

/* Outputs (p, q .. q + PX - 1). Column q*st + s*dl of x is number q + s*dl / st of residue s*dl % st: neighbouring
   pixels read neighbouring numbers whatever the stride.
   The first KB tiles of a group fetch the next group's weights, one vector with each of their own: else products would
   wait for weights, and weights for products. */
RS_INLINE void rs_tile(const rs_image *m, int tile, int p, int q, __global float *y, const int KB, const int PX) {
    rs_vec sum0[12], sum1[12], sum2[12], sum3[12];
    const rs_vec b0 = m->bias ? rs_load(m->bias) : 0, b1 = m->bias && KB > 1 ? rs_load(m->bias + V) : 0;
    const rs_vec b2 = m->bias && KB > 2 ? rs_load(m->bias + 2 * V) : 0;
    const rs_vec b3 = m->bias && KB > 2 ? rs_load(m->bias + 3 * V) : 0;
#define START(i)                                                                                                       \
    if (i < PX) {                                                                                                      \
        sum0[i] = b0;                                                                                                  \
        if (KB > 1) sum1[i] = b1;                                                                                      \
        if (KB > 2) sum2[i] = b2, sum3[i] = b3;                                                                        \
    }
    EACH_12(START)
    __global const rs_stored *w = m->w;
    const int own = m->blocks * m->r * m->s * VIN * STORED, step = tile < KB ? STORED : 0;
    __global const rs_stored *next = tile < KB ? w + (KB + tile) * own : w;
    const rs_vec table = m->table;
    for (int cb = 0; cb < m->blocks; cb++)
        for (int r = 0; r < m->r; r++) {
            const int h = p * m->st + r * m->dh - m->top;
            if (h < 0 || h >= m->h) { /* a row of padding */
                w += m->s * VIN * KB * STORED, next += m->s * VIN * step;
                continue;
            }
            __global const float *line = m->x + (cb * m->h + h) * m->line + q * VIN;
            for (int s = 0; s < m->s; s++) {
                __global const float *x = line + s * m->dw % m->sw * m->residue + s * m->dw / m->sw * VIN;
                for (int c = 0; c < VIN; c++, w += KB * STORED, next += step) {
                    if (KB > 1) RS_PREFETCH_FAR(next);
#ifdef AHEAD
                    RS_PREFETCH(w + AHEAD);
                    if (KB > 1) RS_PREFETCH(w + AHEAD + V);
#endif
                    const rs_vec w0 = rs_weights(w, table), w1 = KB > 1 ? rs_weights(w + STORED, table) : 0;
                    const rs_vec w2 = KB > 2 ? rs_weights(w + 2 * STORED, table) : 0;
                    const rs_vec w3 = KB > 2 ? rs_weights(w + 3 * STORED, table) : 0;
#define MULTIPLY(i)                                                                                                    \
    if (i < PX) {                                                                                                      \
        const rs_vec xv = (rs_vec)(x[c + i * VIN]);                                                                    \
        sum0[i] = xv * w0 + sum0[i];                                                                                   \
        if (KB > 1) sum1[i] = xv * w1 + sum1[i];                                                                       \
        if (KB > 2) sum2[i] = xv * w2 + sum2[i], sum3[i] = xv * w3 + sum3[i];                                          \
    }
                    EACH_12(MULTIPLY)
                }
            }
        }
#define FINISH(i)                                                                                                      \
    if (i < PX) {                                                                                                      \
        rs_store(y + i * V, rs_activate_all(sum0[i], m->activation));                                                  \
        if (KB > 1) rs_store(y + m->next + i * V, rs_activate_all(sum1[i], m->activation));                            \
        if (KB > 2) rs_store(y + 2 * m->next + i * V, rs_activate_all(sum2[i], m->activation));                        \
        if (KB > 2) rs_store(y + 3 * m->next + i * V, rs_activate_all(sum3[i], m->activation));                        \
    }
    EACH_12(FINISH)
}

/* Outputs (p, q0 .. q1 - 1), whose first goes to y: the widest tiles that fit, then narrower ones. A last one of few
   would wait for its own sums, so 12 + 4 are 8 + 8. */
RS_INLINE void rs_line(const rs_image *m, int p, int q0, int q1, __global float *y, const int KB) {
    int done = m->tiles;
#define TILES(PX)                                                                                                      \
    if (KB * PX <= SUMS)                                                                                               \
        for (; q1 - q0 >= PX && !(PX == 12 && q1 - q0 > 13 && q1 - q0 < 18); q0 += PX, y += PX * V)                    \
            rs_tile(m, done++, p, q0, y, KB, PX);
#ifdef __AVX512F__
    TILES(12) TILES(8) TILES(4) TILES(2) TILES(1)
#else
    TILES(6) TILES(3) TILES(2) TILES(1)
#endif
}
