/* Integer kernels for processors: the dot product of four bytes, and the rule of rs_int8.cl for V channels at once.

   The instruction for four bytes multiplies unsigned by signed ones, so x + 128 stands for x, and a sum starts from a
   constant that takes off what that adds. Everything is whole numbers up to the last step, so all ways give the same
   bits.

   Packed     start int32 (K,)    what a sum starts from: the bias, less what offset inputs add
              requant  int32 (5, K)  m0, shift, zero, low, high; all zero in lanes beyond k, so these write zeros
              unit     float32 (K,)  K is k rounded up to V */
#ifdef __AVX512F__
typedef int rs_ints __attribute__((vector_size(64)));
#define RS_INTS(x) __builtin_astype(x, rs_ints)
#endif

#if defined(__AVX2__) && !defined(__AVX512VNNI__)
/* acc + the sums of two 16-bit products: of bytes 0 and 2, of bytes 1 and 3. */
RS_INLINE int8 rs_dot4_half(int8 acc, int8 x, int8 w) {
    typedef short shorts __attribute__((vector_size(32)));
#define RS_PAIRS(x, w) as_int8(__builtin_ia32_pmaddwd256(__builtin_astype(x, shorts), __builtin_astype(w, shorts)))
    const short16 even = as_short16(w) << (short16)(8) >> (short16)(8), odd = as_short16(w) >> (short16)(8);
    return acc + RS_PAIRS(x & 0x00ff00ff, even) + RS_PAIRS(x >> 8 & 0x00ff00ff, odd);
}
#endif

/* acc + four unsigned bytes, the same in all lanes, times four signed ones a lane; the first is the lowest. */
RS_INLINE rs_ivec rs_dot4_all(rs_ivec acc, int four, rs_ivec w) {
    const rs_ivec x = four;
#ifdef __AVX512VNNI__
    return as_int16(__builtin_ia32_vpdpbusd512(RS_INTS(acc), RS_INTS(x), RS_INTS(w)));
#elif defined(__AVX2__)
    return (rs_ivec)(rs_dot4_half(acc.lo, x.lo, w.lo), rs_dot4_half(acc.hi, x.hi, w.hi));
#else
    return acc + (w << 24 >> 24) * (x & 255) + (w << 16 >> 24) * (x >> 8 & 255) + (w << 8 >> 24) * (x >> 16 & 255) +
           (w >> 24) * (x >> 24 & 255);
#endif
}

/* acc + x * w of lanes whose values fit 16 bits. */
RS_INLINE rs_ivec rs_multiply_add(rs_ivec acc, rs_ivec x, rs_ivec w) {
#ifdef __AVX512VNNI__
    /* the sum of two 16-bit products, of which the upper one is made zero */
    return as_int16(__builtin_ia32_vpdpwssd512(RS_INTS(acc), RS_INTS(x), RS_INTS(w & 0xffff)));
#else
    return acc + x * w;
#endif
}

/* Four bytes as they lie. */
typedef struct __attribute__((packed)) { int v; } rs_four_any;
RS_INLINE int rs_four(__global const uchar *x) { return ((__global const rs_four_any *)x)->v; }

/* The rule for V neighbouring channels: made once, used for many pixels. 64-bit lanes are the even and the odd 32-bit
   lanes, each with its sign drawn out, so nothing crosses lanes on the way there and back. */
typedef struct {
    long8 m0, shift, nearest, zero, low, high;
} rs_scaling;

typedef struct {
    rs_scaling even, odd;
    rs_vec unit;
    int to_int8, activation;
} rs_rule;

RS_INLINE long8 rs_even(rs_ivec x) { return as_long8(x) << 32 >> 32; }
RS_INLINE long8 rs_odd(rs_ivec x) { return as_long8(x) >> 32; }

/* For channels k .. k + V - 1 of K. */
RS_INLINE void rs_rule_of(rs_rule *rule, __global const int *requant, __global const float *unit, int k, int K,
                          rs_args a) {
    rule->to_int8 = a.to_int8, rule->activation = a.activation, rule->unit = rs_load(unit + k);
#define RS_FIELD(i, field)                                                                                             \
    rule->even.field = rs_even(rs_load_int(requant + i * K + k));                                                      \
    rule->odd.field = rs_odd(rs_load_int(requant + i * K + k));
    RS_FIELD(0, m0) RS_FIELD(1, shift) RS_FIELD(2, zero) RS_FIELD(3, low) RS_FIELD(4, high)
    rule->even.nearest = (long8)(1) << rule->even.shift >> 1;
    rule->odd.nearest = (long8)(1) << rule->odd.shift >> 1;
}

RS_INLINE long8 rs_scale(long8 acc, const rs_scaling *s) {
    long8 v = ((acc * s->m0 + s->nearest) >> s->shift) + s->zero;
    v = v < s->low ? s->low : v;
    return v > s->high ? s->high : v;
}

/* The sums of one pixel, to y from number `at` on. */
RS_INLINE void rs_finish_all(__global void *y, int at, rs_ivec acc, const rs_rule *rule) {
    if (rule->to_int8) {
        const long8 lower = rs_scale(rs_even(acc), &rule->even), upper = rs_scale(rs_odd(acc), &rule->odd) << 32;
        rs_store_bytes((__global char *)y + at, as_int16((lower & 0xffffffffL) | upper));
    } else {
        const rs_vec sum = RS_CONVERT(acc, float16) * rule->unit;
        rs_store((__global float *)y + at, rs_activate_all(sum, rule->activation));
    }
}
