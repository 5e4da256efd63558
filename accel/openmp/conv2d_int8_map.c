/* Integer 3x3 convolution on small maps, in registers a whole output map of 4x4 or 2x2 pixels, or two rows of 8x8:
   weights are most of what is read.

       acc = sum over c,r,s of  values[k,c,r,s] * (x[n, c, p*st + r - 1, q*st + s - 1] - zero_point) + bias
       y   = rs_int8.h's rule

   Nothing is multiplied on padding: an 8x8 map needs 484 of its 576 products, 4x4 100 of 144, 2x2 16 of 36. The
   instruction multiplies unsigned by signed bytes, so x + 128 stands for x; what that adds depends on the taps inside
   the map, so a sum starts from a constant of its own pixel.
   The nine taps of four channels stay in registers beside the sums, and a pixel is broadcast once for all of them.

   Weights    int8     [k / V][c / V][4][3][3][V k][4 c], read in order; of an 8x8 map, four times
              ternary8 [k / V][c / V][3][3][V k][4 c], one byte for the codes of four groups of four channels: bits 2j
                       and 2j + 1 are those of channel 4j + c. Codes 0, 1, 2 stand for 0 and the row's two levels; the
                       table [k / V][V k][4] holds them, and byte 4k + code of it is the weight.
   Reads      x int8 nchw<V>c;  pack[0] weights;  pack[1] constant int32 [k / V][p*q][V], pack[2] requant, pack[3] unit;
              ternary8: pack[4] table int8
   Writes     y nchw<V>c, int8 or float32
   Scratch    one image, x + 128
   Threads    one block of output channels at a time, for all images
   Cost       n*k*c * (484, 100 or 16) multiply-adds, 4*V an instruction with VNNI; at n = 1 the weights' bandwidth
              bounds it: a byte each, or a quarter of one */
#include "rs_int8.h"

#if RS_V == 16
typedef uint8_t rs_64 __attribute__((vector_size(64)));
typedef uint8_t rs_64_any __attribute__((vector_size(64), aligned(1), may_alias));

/* acc + four unsigned bytes, the same for all lanes, times signed ones. */
RS_INLINE rs_ivec dot4(rs_ivec acc, rs_ivec x, rs_64 w) {
#ifdef __AVX512VNNI__
    return (rs_ivec)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)x, (__m512i)w);
#else
    const rs_ivec v = (rs_ivec)w;
    return acc + (v << 24 >> 24) * (x & 255) + (v << 16 >> 24) * (x >> 8 & 255) + (v << 8 >> 24) * (x >> 16 & 255) +
           (v >> 24) * (x >> 24 & 255);
#endif
}

/* Weights of group j of four channels from the codes of four groups. */
RS_INLINE rs_64 decode(rs_64 codes, int j, rs_64 table, rs_64 rows) {
    const rs_64 index = (codes >> (2 * j) & 3) | rows;
#ifdef __clang__
    rs_64 v;
    for (int i = 0; i < 64; i++) v[i] = table[index[i]];
    return v;
#else
    return __builtin_shuffle(table, index);
#endif
}

typedef struct {
    const uint8_t *x; /* of this image, from the first row of the strip on */
    const int8_t *w;
    const int32_t *constant;
    rs_64 table;
    int64_t blocks, plane; /* plane: bytes of a block of channels of x */
} map;

/* A pointer that the compiler may not use before the sum has come so far. gcc would move all prefetches of a loop to
   its head, more than can be under way. */
#ifdef __AVX512F__
#define AFTER(p, sum) __asm__("" : "+r"(p), "+v"(sum))
#else
#define AFTER(p, sum)
#endif

enum { AHEAD = 64 * 64 }; /* bytes: far enough to hide the way from memory, near enough to be kept in L1 */

/* Sums of P rows of Q pixels, all of a map's or, with more above or below them, a strip of it. */
RS_INLINE void strip(const map *m, rs_ivec *sums, const int P, const int Q, const int ABOVE, const int BELOW,
                     const int ST, const int TERNARY) {
    const int W = Q * ST, FIRST = ABOVE ? -1 : 0, END = BELOW ? (P - 1) * ST + 2 : P * ST; /* rows of x */
    rs_ivec acc[16];
    RS_UNROLL for (int i = 0; i < P * Q; i++) acc[i] = *(const rs_ivec_any *)(m->constant + i * RS_V);
    RS_UNROLL for (int i = 0; i < P * Q; i++) __builtin_prefetch(m->constant + (P * Q + i) * RS_V);
    const rs_64 table = m->table;
    rs_64 rows;
    for (int i = 0; i < 64; i++) rows[i] = i & ~3;
    const uint8_t *x = m->x;
    const int8_t *w = m->w;
    for (int64_t b = 0; b < m->blocks; b++, x += m->plane, w += 9 * 64 * (TERNARY ? 1 : 4))
        RS_UNROLL for (int j = 0; j < 4; j++) {
            rs_64 wv[9];
            const int8_t *at = w + (TERNARY ? 0 : j * 9 * 64);
            AFTER(at, acc[0]);
            RS_UNROLL for (int tap = 0; tap < 9; tap++, at += 64) {
                if (!TERNARY || j == 0) __builtin_prefetch(at + AHEAD);
                const rs_64 stored = *(const rs_64_any *)at;
                wv[tap] = TERNARY ? decode(stored, j, table, rows) : stored;
            }
#pragma GCC unroll 128
            for (int pixel = 0; pixel < (END - FIRST) * W; pixel++) {
                const int h = FIRST + pixel / W, column = pixel % W;
                int32_t four;
                memcpy(&four, x + (h * W + column) * RS_V + 4 * j, 4);
                const rs_ivec xv = (rs_ivec){0} + four;
                RS_UNROLL for (int tap = 0; tap < 9; tap++) {
                    const int p = h + 1 - tap / 3, q = column + 1 - tap % 3; /* times ST */
                    if (p < 0 || p % ST || p / ST >= P || q < 0 || q % ST || q / ST >= Q) continue;
                    acc[p / ST * Q + q / ST] = dot4(acc[p / ST * Q + q / ST], xv, wv[tap]);
                }
            }
        }
    RS_UNROLL for (int i = 0; i < P * Q; i++) sums[i] = acc[i];
}

#define MAP(P, ST, TERNARY) \
    static void map_##P##_##ST##_##TERNARY(const map *m, rs_ivec *sums) { strip(m, sums, P, P, 0, 0, ST, TERNARY); }
MAP(4, 1, 0) MAP(4, 2, 0) MAP(2, 1, 0) MAP(2, 2, 0) MAP(4, 1, 1) MAP(4, 2, 1) MAP(2, 1, 1) MAP(2, 2, 1)
#define PAIR(ABOVE, BELOW) \
    static void pair_##ABOVE##_##BELOW(const map *m, rs_ivec *sums) { strip(m, sums, 2, 8, ABOVE, BELOW, 1, 0); }
PAIR(0, 1) PAIR(1, 1) PAIR(1, 0)

typedef void map_fn(const map *, rs_ivec *);
static map_fn *const MAPS[2][2][2] = {
    /* [ternary][4x4 map][stride 2] */
    {{map_2_1_0, map_2_2_0}, {map_4_1_0, map_4_2_0}},
    {{map_2_1_1, map_2_2_1}, {map_4_1_1, map_4_2_1}},
};
static map_fn *const PAIRS[4] = {pair_0_1, pair_1_1, pair_1_1, pair_1_0};

RS_INLINE void layer(const rs_args *a, const int TERNARY) {
    const int64_t blocks = rs_ceil(a->c, RS_V), outs = rs_ceil(a->k, RS_V), pixels = a->p * a->q;
    const int64_t plane = a->h * a->w * RS_V, stored = blocks * 9 * 64 * (TERNARY ? 1 : 4);
    const int64_t strips = a->p == 8 ? 4 : 1, size = pixels / strips;
    const rs_finish f = rs_finish_of(a, 1, outs * RS_V);
    uint8_t *x = a->scratch;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < a->n * blocks * plane; i += RS_V)
        for (int64_t lane = 0; lane < RS_V; lane++) x[i + lane] = ((const uint8_t *)a->x[0])[i + lane] ^ 128;
#pragma omp for schedule(static)
    for (int64_t k = 0; k < outs; k++) {
        const rs_rule rule = rs_rule_of(a, &f, k * RS_V);
        for (int64_t n = 0; n < a->n; n++)
            for (int64_t i = 0; i < strips; i++) {
                map m = {.x = x + n * blocks * plane + i * (plane / strips),
                         .w = (const int8_t *)a->pack[0] + k * stored,
                         .constant = f.constant + (k * pixels + i * size) * RS_V, .blocks = blocks, .plane = plane};
                if (TERNARY) m.table = *(const rs_64_any *)((const int8_t *)a->pack[4] + k * 64);
                rs_ivec sums[16];
                (strips > 1 ? PAIRS[i] : MAPS[TERNARY][a->p == 4][a->st[0] == 2])(&m, sums);
                const int64_t at = ((n * outs + k) * pixels + i * size) * RS_V;
                if (size == 16) rs_finish_block(a, &rule, sums, 16, at);
                else rs_finish_block(a, &rule, sums, 4, at);
            }
    }
}

void rs_conv2d_int8_map(const rs_args *a) { layer(a, 0); }
void rs_conv2d_ternary8_map(const rs_args *a) { layer(a, 1); }
#else
/* No rows without 64-byte vectors. */
#endif
