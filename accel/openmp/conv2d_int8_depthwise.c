/* Integer depthwise convolution on blocked channels: one vector of channels times one vector of weights a tap, or for
   the taps of a row together.

       acc = sum over r,s of  values[c,r,s] * (x[n, c, p*st + r*dl - top, q*st + s*dl - left] - zero_point) + bias
       y   = rs_int8.h's rule;  padding holds zero_point, so a tap that falls outside the image adds nothing

   With VNNI, 3x3 filters at stride 1 or 2: four neighbouring pixels, turned around so that those of a channel lie in
   one lane, meet the three taps of a row in one instruction; at stride 1 they serve the next pixel as well, whose taps
   stand a byte further on. It multiplies unsigned by signed bytes, so eight rows of outputs at a time read a copy of
   their inputs + 128, framed by zero_point + 128; what that adds is taken off where a sum starts.
   Otherwise pixels near the sides are computed one by one, with the taps s0 .. s1 - 1 that they have; elsewhere 3x3
   filters widen each byte of x once for the three taps of a row that it meets.

   Weights    [c / V][r][s][V c] int8
   Reads      x int8 nchw<V>c;  pack[0] weights;  pack[1] int64 {1, zero_point};  pack[2..4] constant, requant, unit
   Writes     y nchw<V>c, int8 or float32
   Scratch    the framed inputs of all strips of eight rows of an image, and one vector that loads may run over
   Threads    one output row, or eight, of one block of channels at a time
   Cost       n*c*p*q * r*s multiply-adds, V an instruction, or 3*V */
#include "rs_int8.h"

/* 3x3 filters, if the processor can, a row of taps at a time. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && RS_V == 16
#define BY_ROWS 1
#else
#define BY_ROWS 0
#endif

/* One output row: x is the plane of its block; y counts from the start of the output. */
typedef struct {
    const rs_args *a;
    const rs_rule *rule;
    const int8_t *x, *w;
    rs_ivec constant, zero;
    int64_t y, p;
} line;

RS_INLINE void finish(const line *m, int64_t q, const rs_ivec *acc, const int PX) {
    rs_finish_block(m->a, m->rule, acc, PX, m->y + q * RS_V);
}

/* The first byte that row r of the taps of pixel q meets, NULL if that row is padding. */
RS_INLINE const int8_t *taps_row(const line *m, int64_t q, int64_t r) {
    const int64_t h = m->p * m->a->st[0] + r * m->a->dl[0] - m->a->pd[0];
    if (h < 0 || h >= m->a->h) return 0;
    return m->x + (h * m->a->w + q * m->a->st[1] - m->a->pd[1]) * RS_V;
}

/* One pixel with whatever taps it has. */
static void pixel(const line *m, int64_t q) {
    const rs_args *a = m->a;
    const int64_t from = q * a->st[1] - a->pd[1];
    int64_t s0 = 0, s1 = a->s;
    while (s0 < s1 && from + s0 * a->dl[1] < 0) s0++;
    while (s1 > s0 && from + (s1 - 1) * a->dl[1] >= a->w) s1--;
    rs_ivec acc = m->constant;
    for (int64_t r = 0; r < a->r; r++) {
        const int8_t *x = taps_row(m, q, r);
        for (int64_t s = s0; x && s < s1; s++)
            acc = rs_multiply_add(acc, rs_bytes_at(x + s * a->dl[1] * RS_V) - m->zero,
                                  rs_bytes_at(m->w + (r * a->s + s) * RS_V));
    }
    finish(m, q, &acc, 1);
}

#if !BY_ROWS
/* Four pixels of a 3x3 filter, all of their columns inside the image. */
RS_INLINE void three_by_three(const line *m, int64_t q, const int ST) {
    rs_ivec acc[4];
    RS_UNROLL for (int i = 0; i < 4; i++) acc[i] = m->constant;
    for (int r = 0; r < 3; r++) {
        const int8_t *x = taps_row(m, q, r);
        if (!x) continue;
        rs_ivec wide[9];
        RS_UNROLL for (int i = 0; i < 3 * ST + 3; i++) wide[i] = rs_bytes_at(x + i * RS_V) - m->zero;
        RS_UNROLL for (int s = 0; s < 3; s++) {
            const rs_ivec tap = rs_bytes_at(m->w + (r * 3 + s) * RS_V);
            RS_UNROLL for (int i = 0; i < 4; i++) acc[i] = rs_multiply_add(acc[i], wide[i * ST + s], tap);
        }
    }
    finish(m, q, acc, 4);
}
#endif

static void by_taps(const rs_args *a) {
    const int64_t blocks = rs_ceil(a->c, RS_V);
    const rs_finish f = rs_finish_of(a, 2, blocks * RS_V);
#if !BY_ROWS
    const int64_t inner = rs_min(rs_ceil(a->pd[1], a->st[1]), a->q), room = a->w + a->pd[1] - (a->s - 1) * a->dl[1];
    const int64_t outer = room > 0 ? rs_max(inner, rs_min(rs_ceil(room, a->st[1]), a->q)) : inner;
    const int fast = a->r == 3 && a->s == 3 && a->dl[1] == 1;
#endif
#pragma omp for collapse(3) schedule(static)
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t p = 0; p < a->p; p++) {
                const rs_rule rule = rs_rule_of(a, &f, b * RS_V);
                const line m = {.a = a, .rule = &rule,
                                .x = (const int8_t *)a->x[0] + (n * blocks + b) * a->h * a->w * RS_V,
                                .w = (const int8_t *)a->pack[0] + b * a->r * a->s * RS_V,
                                .constant = *(const rs_ivec_any *)(f.constant + b * RS_V),
                                .zero = (rs_ivec){0} + (int32_t)((const int64_t *)a->pack[1])[1],
                                .y = ((n * blocks + b) * a->p + p) * a->q * RS_V, .p = p};
                int64_t q = 0;
#if !BY_ROWS
                for (; q < inner; q++) pixel(&m, q);
                if (fast && a->st[1] == 1)
                    for (; q + 4 <= outer; q += 4) three_by_three(&m, q, 1);
                if (fast && a->st[1] == 2)
                    for (; q + 4 <= outer; q += 4) three_by_three(&m, q, 2);
#endif
                for (; q < a->q; q++) pixel(&m, q);
            }
}

#if BY_ROWS
enum { STRIP = 8 }; /* rows of outputs */

/* Four vectors of bytes as 16 lanes of four: byte 4*i + j of the result is byte i of vector j. */
RS_INLINE __m512i fours(const void *x) {
    const __m512i lanes = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m128i bytes = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i v = _mm512_permutexvar_epi32(lanes, _mm512_loadu_si512(x));
    return _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(bytes));
}

typedef struct {
    const rs_args *a;
    const rs_rule *rule;
    const uint8_t *x;    /* framed rows that the first row of taps meets */
    int64_t row;         /* bytes of a framed row */
    __m512i start, w[3]; /* of a sum; the taps of a row, then nothing */
} taps;

/* PX pixels from q on of an output row; `at` is where the row starts in y. */
RS_INLINE void pixels(const taps *m, int64_t q, int64_t at, const int PX, const int ST) {
    rs_ivec acc[8];
    RS_UNROLL for (int i = 0; i < PX; i++) acc[i] = (rs_ivec)m->start;
    RS_UNROLL for (int r = 0; r < 3; r++) {
        const uint8_t *x = m->x + r * m->row + q * ST * RS_V;
        const __m512i w = m->w[r], next = _mm512_slli_epi32(w, 8);
        RS_UNROLL for (int i = 0; i < PX; i += 3 - ST) {
            const __m512i four = fours(x + i * ST * RS_V);
            acc[i] = (rs_ivec)_mm512_dpbusd_epi32((__m512i)acc[i], four, w);
            if (ST == 1 && i + 1 < PX) acc[i + 1] = (rs_ivec)_mm512_dpbusd_epi32((__m512i)acc[i + 1], four, next);
        }
    }
    rs_finish_block(m->a, m->rule, acc, PX, at + q * RS_V);
}

RS_INLINE void output_row(const taps *m, int64_t at, const int ST) {
    int64_t q = 0, end = m->a->q;
    for (; q + 8 <= end; q += 8) pixels(m, q, at, 8, ST);
    if (q + 4 <= end) pixels(m, q, at, 4, ST), q += 4;
    if (q + 2 <= end) pixels(m, q, at, 2, ST), q += 2;
    if (q < end) pixels(m, q, at, 1, ST);
}

/* `count` rows of a plane from row h on, between columns of padding. */
static void frame(const rs_args *a, const int8_t *plane, int64_t h, int64_t count, uint8_t *to, int8_t zero) {
    const __m128i offset = _mm_set1_epi8(-128), fill = _mm_set1_epi8((int8_t)(zero ^ -128));
    __m128i *out = (__m128i *)to;
    for (int64_t end = h + count; h < end; h++) {
        const int inside = h >= 0 && h < a->h;
        const __m128i *x = (const __m128i *)(plane + h * a->w * RS_V);
        for (int64_t j = 0; j < a->pd[1]; j++) _mm_storeu_si128(out++, fill);
        for (int64_t j = 0; j < a->w; j++)
            _mm_storeu_si128(out++, inside ? _mm_xor_si128(_mm_loadu_si128(x + j), offset) : fill);
        for (int64_t j = 0; j < a->pd[3]; j++) _mm_storeu_si128(out++, fill);
    }
}

/* Output rows p .. p + STRIP - 1 of block b. */
static void strip(const rs_args *a, const rs_finish *f, int64_t n, int64_t b, int64_t p, uint8_t *framed) {
    const int64_t blocks = rs_ceil(a->c, RS_V), rows = rs_min(STRIP, a->p - p), st = a->st[0];
    const int8_t zero = (int8_t)((const int64_t *)a->pack[1])[1];
    const rs_rule rule = rs_rule_of(a, f, b * RS_V);
    taps m = {.a = a, .rule = &rule, .row = (a->pd[1] + a->w + a->pd[3]) * RS_V,
              .start = _mm512_loadu_si512(f->constant + b * RS_V)};
    __m512i added = _mm512_setzero_si512();
    for (int r = 0; r < 3; r++) {
        int8_t w[4 * RS_V] = {0};
        memcpy(w, (const int8_t *)a->pack[0] + (b * 3 + r) * 3 * RS_V, 3 * RS_V);
        m.w[r] = fours(w);
        added = _mm512_dpbusd_epi32(added, _mm512_set1_epi8((int8_t)(zero ^ -128)), m.w[r]);
    }
    m.start = _mm512_sub_epi32(m.start, added);
    frame(a, (const int8_t *)a->x[0] + (n * blocks + b) * a->h * a->w * RS_V, p * st - a->pd[0], (rows - 1) * st + 3,
          framed, zero);
    for (int64_t i = 0; i < rows; i++) {
        const int64_t at = (((n * blocks + b) * a->p + p + i) * a->q) * RS_V;
        m.x = framed + i * st * m.row;
        if (a->st[1] == 1) output_row(&m, at, 1);
        else output_row(&m, at, 2);
    }
}

static void by_rows(const rs_args *a) {
    const int64_t blocks = rs_ceil(a->c, RS_V), strips = rs_ceil(a->p, STRIP);
    const int64_t size = ((STRIP - 1) * a->st[0] + 3) * (a->pd[1] + a->w + a->pd[3]) * RS_V;
    const rs_finish f = rs_finish_of(a, 2, blocks * RS_V);
    for (int64_t n = 0; n < a->n; n++)
#pragma omp for collapse(2) schedule(static)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t i = 0; i < strips; i++)
                strip(a, &f, n, b, i * STRIP, (uint8_t *)a->scratch + (b * strips + i) * size);
}

void rs_conv2d_int8_depthwise(const rs_args *a) {
    const int square = a->r == 3 && a->s == 3 && a->dl[0] == 1 && a->dl[1] == 1;
    if (square && a->st[0] <= 2 && a->st[1] <= 2) by_rows(a);
    else by_taps(a);
}
#else
void rs_conv2d_int8_depthwise(const rs_args *a) { by_taps(a); }
#endif
