/* Integer convolution on blocked channels: the register tile of rs_tile_cpu.cl with four products a lane.

       acc = sum over c,r,s of  values[k,c,r,s] * (xpad[n, c, p*st + r*dl, q*st + s*dl] - zero_point) + bias
       y   = the rule of rs_int8.cl

   `pad` copies the images with x + 128, framed by zero_point + 128: what that adds, (zero_point + 128) * sum of
   values[k], is the same for every pixel, padding or not, and is taken off by the constant that a sum starts from.
   Columns lie as [column mod st][column / st], as conv2d_blocked_cpu.cl has them.

   CB = V: x is nchw16c. CB = 4: x is nchw with few channels.

   Reads      x int8;  w int8 [k / (KB*V)][c / CB][r][s][CB / 4][KB][V k][4 c];  sizes int64 {KB, zero_point};
              start, requant, unit of rs_int8_cpu.cl
   Writes     y nchw16c, int8 or float32
   Scratch    [n][c / CB][h + pd][column mod st][column / st][CB] bytes; 1x1 at stride 1: [work-item][c / CB][48][CB]
   Work-item  pad: 16 rows of one block of channels.  conv: an output row of one group of blocks; 1x1 at stride 1, which
              knows no rows: 48 pixels, which it copies itself
   Cost       n*k*p*q * c*r*s multiply-adds, 4*V an instruction with VNNI; bitwise */
#include "rs_cpu.cl"
#include "rs_int8_cpu.cl"

#ifdef __AVX512F__
#define SUMS 24
#else
#define SUMS 6 /* of two or four registers each */
#endif
#define FLAT 48 /* pixels */
#define ARGUMENTS                                                                                                      \
    __global const char *x, __global void *y, __global const char *w, __global const long *sizes,                      \
        __global const int *start, __global const int *requant, __global const float *unit,                            \
        __global uchar *scratch, const rs_args a

RS_INLINE int residues(rs_args a) { return a.s > 1 ? a.st1 : 1; }
RS_INLINE int columns(rs_args a) { return rs_ceil(a.pd1 + a.w + a.pd3, a.st1); }
RS_INLINE int rows(rs_args a) { return a.pd0 + a.h + a.pd2; }

typedef struct __attribute__((packed)) { uint4 v; } pixel_any;

/* One pixel of a block; of nchw the channels from `first` on. Beyond c they meet weights of zero: any will do. */
RS_INLINE void copy(__global uchar *to, __global const char *x, int first, rs_args a) {
#if CB == 4
    for (int i = 0; i < 4; i++) to[i] = (uchar)x[min(first + i, a.c - 1) * a.h * a.w] ^ 128;
#else
    ((__global pixel_any *)to)->v = ((__global const pixel_any *)x)->v ^ 0x80808080;
#endif
}

RS_ALONE pad(ARGUMENTS RS_WHICH) {
    const int blocks = rs_ceil(a.c, CB), plane = rs_item(1), n = plane / blocks, b = plane % blocks;
    const int width = columns(a), end = min(rows(a), (rs_item(0) + 1) * 16);
    const uchar fill = sizes[1] + 128;
    for (int i = rs_item(0) * 16; i < end; i++) {
        const int h = i - a.pd0;
        if (a.r == 1 && i % a.st0) continue;
        __global uchar *to = scratch + (plane * rows(a) + i) * residues(a) * width * CB;
        __global const char *line = CB == 4 ? x + (n * a.c * a.h + h) * a.w : x + (plane * a.h + h) * a.w * CB;
        for (int residue = 0; residue < residues(a); residue++) {
            const int before = a.pd1 - residue, inside = h >= 0 && h < a.h;
            const int first = inside ? min(width, before > 0 ? rs_ceil(before, a.st1) : 0) : width;
            const int last = inside ? max(first, min(width, rs_ceil(max(0, a.w + before), a.st1))) : width;
            for (int j = 0; j < first * CB; j++) to[j] = fill;
            for (int j = first; j < last; j++)
                copy(to + j * CB, line + (j * a.st1 - before) * (CB == 4 ? 1 : CB), b * CB, a);
            for (int j = last * CB; j < width * CB; j++) to[j] = fill;
            to += width * CB;
        }
    }
}

typedef struct {
    __global const uchar *x; /* the framed image */
    __global const char *w;
    __global const int *start; /* of this group */
    __global void *y;
    const rs_rule *rules;
    int blocks, r, s, st, dh;          /* ceil(c/CB); the filter */
    int plane, line, residue, sw, dw; /* bytes of a plane, a row, a residue; stride and dilation of columns */
    int next;                         /* numbers of y from one block to the next */
} rs_image;

/* Outputs (p, q .. q + PX - 1), whose first goes to number `at` of y. */
RS_INLINE void tile(const rs_image *m, int p, int q, int at, const int KB, const int PX) {
    rs_ivec sum0[12], sum1[12], sum2[12], sum3[12];
#define START(i)                                                                                                       \
    if (i < PX) {                                                                                                      \
        sum0[i] = rs_load_int(m->start);                                                                               \
        if (KB > 1) sum1[i] = rs_load_int(m->start + V);                                                               \
        if (KB > 2) sum2[i] = rs_load_int(m->start + 2 * V), sum3[i] = rs_load_int(m->start + 3 * V);                  \
    }
    EACH_12(START)
    __global const int *w = (__global const int *)m->w;
    for (int cb = 0; cb < m->blocks; cb++)
        for (int r = 0; r < m->r; r++) {
            __global const uchar *line = m->x + cb * m->plane + (p * m->st + r * m->dh) * m->line + q * CB;
            for (int s = 0; s < m->s; s++) {
                __global const uchar *x = line + s * m->dw % m->sw * m->residue + s * m->dw / m->sw * CB;
                for (int c = 0; c < CB; c += 4, w += KB * V) {
                    const rs_ivec w0 = rs_load_int(w), w1 = KB > 1 ? rs_load_int(w + V) : 0;
                    const rs_ivec w2 = KB > 2 ? rs_load_int(w + 2 * V) : 0, w3 = KB > 2 ? rs_load_int(w + 3 * V) : 0;
#define MULTIPLY(i)                                                                                                    \
    if (i < PX) {                                                                                                      \
        const int four = rs_four(x + c + i * CB);                                                                      \
        sum0[i] = rs_dot4_all(sum0[i], four, w0);                                                                      \
        if (KB > 1) sum1[i] = rs_dot4_all(sum1[i], four, w1);                                                          \
        if (KB > 2) sum2[i] = rs_dot4_all(sum2[i], four, w2), sum3[i] = rs_dot4_all(sum3[i], four, w3);                \
    }
                    EACH_12(MULTIPLY)
                }
            }
        }
    rs_ivec sums[48]; /* a loop over them is short where one rule for each would be most of the code */
#define KEEP(i)                                                                                                        \
    if (i < PX) {                                                                                                      \
        sums[i] = sum0[i];                                                                                             \
        if (KB > 1) sums[PX + i] = sum1[i];                                                                            \
        if (KB > 2) sums[2 * PX + i] = sum2[i], sums[3 * PX + i] = sum3[i];                                            \
    }
    EACH_12(KEEP)
    for (int b = 0; b < KB; b++)
        for (int i = 0; i < PX; i++)
            rs_finish_all(m->y, at + b * m->next + i * V, sums[b * PX + i], m->rules + b);
}

RS_INLINE void line(const rs_image *m, int p, int q0, int q1, int at, const int KB) {
#define TILES(PX)                                                                                                      \
    if (KB * PX <= SUMS)                                                                                               \
        for (; q1 - q0 >= PX && !(PX == 12 && q1 - q0 > 13 && q1 - q0 < 18); q0 += PX, at += PX * V)                   \
            tile(m, p, q0, at, KB, PX);
#ifdef __AVX512F__
    TILES(12) TILES(8) TILES(4) TILES(2) TILES(1)
#else
    TILES(6) TILES(3) TILES(2) TILES(1)
#endif
}

RS_ALONE conv(ARGUMENTS RS_WHICH) {
    const int blocks = rs_ceil(a.c, CB), outs = rs_ceil(a.k, V), piece = rs_item(0), n = rs_item(1);
    const int flat = a.r * a.s * a.st0 * a.st1 == 1 && !a.pd0 && !a.pd1 && !a.pd2 && !a.pd3, pixels = a.p * a.q;
    rs_span g;
    rs_span_of(rs_item(2), outs, sizes[0], &g);
    const int first = flat ? piece * FLAT : piece * a.q, count = flat ? min(FLAT, pixels - first) : a.q;
    const int residue = (flat ? count : columns(a)) * CB, row = residues(a) * residue;
    const int plane = flat ? residue : rows(a) * row;
    if (flat) { /* pixels of its own: they are few beside what is made of them, and another launch takes longer */
        const int own = (rs_item(2) * rs_items(1) + n) * rs_items(0) + piece;
        scratch += own * FLAT * blocks * CB;
        for (int cb = 0; cb < blocks; cb++) {
            __global uchar *to = scratch + cb * count * CB;
            const int at = CB == 4 ? n * a.c * pixels + first : ((n * blocks + cb) * pixels + first) * CB;
            __global const char *from = x + at;
            int j = 0;
            for (; CB == V && j + 4 <= count; j += 4)
                rs_store_int((__global int *)(to + j * CB),
                             rs_load_int((__global const int *)(from + j * CB)) ^ (int)0x80808080);
            for (; j < count; j++) copy(to + j * CB, from + j * (CB == 4 ? 1 : CB), cb * CB, a);
        }
    }
    rs_rule rules[4];
    for (int b = 0; b < g.size; b++) rs_rule_of(rules + b, requant, unit, (g.first + b) * V, outs * V, a);
    const rs_image m = {.x = flat ? scratch : scratch + n * blocks * plane, .rules = rules, .y = y, .blocks = blocks,
                        .w = w + g.first * V * blocks * a.r * a.s * CB, .start = start + g.first * V, .r = a.r,
                        .s = a.s, .st = a.st0, .dh = a.dl0, .plane = plane, .line = row, .residue = residue,
                        .sw = a.st1, .dw = a.dl1, .next = pixels * V};
    const int p = flat ? 0 : piece, at = ((n * outs + g.first) * pixels + first) * V;
    if (g.size == 4) line(&m, p, 0, count, at, 4);
    else if (g.size == 2) line(&m, p, 0, count, at, 2);
    else line(&m, p, 0, count, at, 1);
}
