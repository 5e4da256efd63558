/* Integer 3x3 convolution on small maps, a whole output map in registers: 4x4 or 2x2 pixels, where weights are most of
   what is read.

       acc = sum over c,r,s of  values[k,c,r,s] * (x[n, c, p*ST + r - 1, q*ST + s - 1] - zero_point) + bias
       y   = the rule of rs_int8.cl

   Nothing is multiplied on padding: a 4x4 map needs 100 of its 144 products, a 2x2 map 16 of 36. What x + 128 adds
   depends on the taps inside the map, so a sum starts from a constant of its own pixel.
   The nine taps of four channels stay in registers beside the sums, and a pixel is broadcast once for all of them.

   Reads      x int8 nchw16c;  w int8;  start int32 [k / V][p*q][V], requant, unit (rs_int8_cpu.cl)
              TERNARY = 0: w [k / V][c / V][4][3][3][V k][4 c], read once, in order
              TERNARY = 1: w [k / V][c / V][3][3][V k][4 c], one byte for the codes of four groups of four channels:
              bits 2j and 2j + 1 are those of channel 4j + c. Codes 0, 1, 2 stand for 0 and the row's two levels;
              table int8 [k / V][V k][4] holds them
   Writes     y nchw16c, int8 or float32
   Scratch    all images, x + 128
   Work-item  offset: one block of channels.  conv: one block of output channels, one image
   Cost       n*k*c * (100 or 16) multiply-adds, 4*V an instruction with VNNI; at n = 1 the weights' bandwidth bounds
              it: a byte each, or a quarter of one; bitwise */
#include "rs_cpu.cl"
#include "rs_int8_cpu.cl"

#define H (P * ST)
#define AHEAD (64 * V) /* fours of weights */
#if TERNARY
#define TABLE __global const char *table,
#else
#define TABLE
#endif
#define ARGUMENTS                                                                                                      \
    __global const char *x, __global void *y, __global const int *w, __global const int *start,                        \
        __global const int *requant, __global const float *unit, TABLE __global uchar *scratch, const rs_args a

RS_ALONE offset(ARGUMENTS RS_WHICH) {
    __global const rs_ivec_any *from = (__global const rs_ivec_any *)x + rs_item(0) * H * H / 4;
    __global rs_ivec_any *to = (__global rs_ivec_any *)scratch + rs_item(0) * H * H / 4;
    for (int i = 0; i < H * H / 4; i++) to[i].v = from[i].v ^ (int)0x80808080;
}

#if TERNARY
/* Weights of group j of four channels from the codes of four groups. */
RS_INLINE rs_ivec decode(rs_ivec codes, int j, rs_ivec table) {
#ifdef __AVX512VBMI__
    typedef char bytes __attribute__((vector_size(64)));
    const rs_ivec lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const rs_ivec at = (codes >> (2 * j) & 0x03030303) | lane * 0x04040404; /* the code's byte of the lane's four */
    return as_int16(__builtin_ia32_permvarqi512(__builtin_astype(table, bytes), __builtin_astype(at, bytes)));
#else
    /* bytes of ones where a code is 1 or 2 choose the level in the second or third byte of the row's four */
    const rs_ivec one = codes >> (2 * j) & 0x01010101, two = codes >> (2 * j + 1) & 0x01010101;
    const rs_ivec first = (table >> 8 & 255) * 0x01010101, second = (table >> 16 & 255) * 0x01010101;
    return (((one << 8) - one) & first) | (((two << 8) - two) & second);
#endif
}
#endif

RS_ALONE conv(ARGUMENTS RS_WHICH) {
    const int n = rs_item(0), kb = rs_item(1), blocks = rs_ceil(a.c, V), outs = rs_ceil(a.k, V);
    __global const uchar *at = scratch + n * blocks * H * H * V;
    rs_ivec sum[P * P];
    start += kb * P * P * V, w += kb * blocks * 9 * V * (TERNARY ? 1 : 4);
#if TERNARY
    const rs_ivec levels = rs_load_int((__global const int *)table + kb * V);
#endif
#if P == 4
#define EACH_PIXEL(f) EACH_16(f)
#else
#define EACH_PIXEL(f) EACH_4(f)
#endif
#define START(i) sum[i] = rs_load_int(start + i * V);
    EACH_PIXEL(START)
    for (int b = 0; b < blocks; b++, at += H * H * V, w += 9 * V * (TERNARY ? 1 : 4))
        for (int j = 0; j < 4; j++) {
            rs_ivec wv[9];
#if TERNARY
#define WEIGHTS(tap)                                                                                                   \
    if (j == 0) RS_PREFETCH(w + tap * V + AHEAD);                                                                      \
    wv[tap] = decode(rs_load_int(w + tap * V), j, levels);
#else
#define WEIGHTS(tap)                                                                                                   \
    RS_PREFETCH(w + (j * 9 + tap) * V + AHEAD);                                                                        \
    wv[tap] = rs_load_int(w + (j * 9 + tap) * V);
#endif
            EACH_9(WEIGHTS)
/* Pixel (h, v) of x and tap (r, s) meet in output (h + 1 - r, v + 1 - s) / ST, if that is one. */
#define TAP(h, v, r, s)                                                                                                \
    if (h + 1 - r >= 0 && (h + 1 - r) % ST == 0 && (h + 1 - r) / ST < P && v + 1 - s >= 0 && (v + 1 - s) % ST == 0 &&  \
        (v + 1 - s) / ST < P)                                                                                          \
        sum[(h + 1 - r) / ST * P + (v + 1 - s) / ST] =                                                                 \
            rs_dot4_all(sum[(h + 1 - r) / ST * P + (v + 1 - s) / ST], four, wv[3 * r + s]);
#define PIXEL(h, v)                                                                                                    \
    if (h < H && v < H) {                                                                                              \
        const int four = rs_four(at + (h * H + v) * V + 4 * j);                                                        \
        TAP(h, v, 0, 0) TAP(h, v, 0, 1) TAP(h, v, 0, 2) TAP(h, v, 1, 0) TAP(h, v, 1, 1) TAP(h, v, 1, 2)                \
        TAP(h, v, 2, 0) TAP(h, v, 2, 1) TAP(h, v, 2, 2)                                                                \
    }
#define ROW(h)                                                                                                         \
    PIXEL(h, 0) PIXEL(h, 1) PIXEL(h, 2) PIXEL(h, 3) PIXEL(h, 4) PIXEL(h, 5) PIXEL(h, 6) PIXEL(h, 7)
#if P * ST == 2
            PIXEL(0, 0) PIXEL(0, 1) PIXEL(1, 0) PIXEL(1, 1)
#elif P * ST == 4
            EACH_4(ROW)
#else
            EACH_8(ROW)
#endif
        }
    rs_rule rule;
    rs_rule_of(&rule, requant, unit, kb * V, outs * V, a);
#define FINISH(i) rs_finish_all(y, ((n * outs + kb) * P * P + i) * V, sum[i], &rule);
    EACH_PIXEL(FINISH)
}
