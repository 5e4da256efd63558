/* How weights are stored, by FORMAT:
       0 dense    float32
       1 half     float16, widened without rounding
       2 ternary  a word of 2 bits a channel, V of them: 0, 1, 2 stand for 0, +positive, -negative (formats/ternary.py);
                  an array more: table float32 (V,) {0, +positive, -negative, 0} and again */
#if FORMAT == 0
typedef float rs_stored;
#define STORED V /* of them make a vector */
#elif FORMAT == 1
typedef ushort rs_stored;
#define STORED V
#else
typedef uint rs_stored;
#define STORED 1
#endif

#ifdef __AVX512F__
typedef short rs_halves __attribute__((vector_size(32)));
typedef struct __attribute__((packed, aligned(2))) { rs_halves v; } rs_halves_any;
typedef float rs_floats __attribute__((vector_size(64)));
typedef int rs_ints __attribute__((vector_size(64)));
#else
typedef struct __attribute__((packed, aligned(2))) { ushort16 v; } rs_halves_any;
#endif

/* V weights. */
RS_INLINE rs_vec rs_weights(__global const rs_stored *w, rs_vec table) {
#if FORMAT == 0
    return rs_load(w);
#elif FORMAT == 1 && defined(__AVX512F__)
    const rs_floats none = __builtin_astype((rs_vec)(0), rs_floats);
    return as_float16(__builtin_ia32_vcvtph2ps512_mask(((__global const rs_halves_any *)w)->v, none, (short)-1, 4));
#elif FORMAT == 1
    /* exponent and fraction as those of a float are 2^112 times too small, whatever the exponent was */
    const rs_ivec all = RS_CONVERT(((__global const rs_halves_any *)w)->v, int16);
    const rs_vec size = as_float16((all & 0x7fff) << 13) * 0x1p112f;
    return as_float16(as_int16(size) | (all & 0x8000) << 16);
#else
    const rs_ivec lane = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
#ifdef __AVX512F__
    const rs_ivec at = (rs_ivec)((int)*w) >> lane;
    return as_float16(
        __builtin_ia32_permvarsf512(__builtin_astype(table, rs_floats), __builtin_astype(at, rs_ints)));
#else
    const rs_ivec top = (rs_ivec)((int)*w) << (30 - lane); /* a code's two bits as the highest */
    return as_float16((top << 1 >> 31 & as_int(table.s1)) | (top >> 31 & as_int(table.s2)));
#endif
#endif
}

/* What a kernel is given beside its weights, and the table. */
#if FORMAT == 2
#define TABLE , __global const float *look_up
#define LOOK_UP rs_load(look_up)
#else
#define TABLE
#define LOOK_UP (rs_vec)(0)
#endif
