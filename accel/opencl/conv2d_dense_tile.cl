/* Convolutions and linear layers on GPUs: a matrix product of tiles of KT filters x PT pixels, gathered on the way.

       y[k, j] = activation(bias[k] + sum over taps and channels of  w[tap, c, k] * x[c, pixel j moved by tap])

   A work-group computes a tile. It brings D rows of both operands at a time (D channels under one tap) into local
   memory, STAGES - 1 such portions on their way while one is used. With few channels (FEW = 1) rows of several taps
   share a portion. Its work-items form SLICES teams that share the
   rows out; one has TK x TP sums in registers. Where tiles are too few to fill a device, `parts` groups share the sum
   of one tile: each leaves what it has, and whoever comes last adds up all of them, in their order.

       rows of w   tap 0: c 0..D-1 | D..2D-1 | ..   tap 1: ..          filters ->        pixels ->
                                                                   D   [ KT w ]     D   [ PT x ]

   Constants  KT PT TK TP D STAGES ITEMS as above, TK and TP 4 or 8;  HALF = 1: w in float16, arithmetic in float32
              TERNARY = 1: w in two bits, 0 none, 1 and 2 what table[1] and table[2] say
              FEW = 1: rows of w are taps * c without gaps
              JOINED = 1, in a walk: y = activation2(that + other), if a.joined says so; `other` is another layer's
   Reads      x nchw;  bias (k,);  w (taps, c up to D, k up to KT), zeros behind; FEW: (taps * c up to D, k up to KT)
   Writes     y nchw;  sums (tiles, parts, KT, PT);  arrived (tiles,): zeros before, in the end zeros again
   Work-group ITEMS work-items; parts * tiles of them
   Cost       2*KT*PT multiply-adds for KT + PT numbers brought; bound by the multiply-adds from 64 x 64 on */
#include "rs_copy.cl"

#undef TEAM
#undef SLICES
#undef STAGE
#undef ROOM
#undef WEIGHT
#undef WBITS
#undef WCOPY
#undef WFOUR
#undef CODED_BY
#define TEAM ((KT / TK) * (PT / TP))
#define SLICES (ITEMS / TEAM)
#if TERNARY
#define WEIGHT uchar /* of four weights */
#define WBITS 2
#define WCOPY 16
#define WFOUR(p, at) rs_decode((p)[(at) / 4], positive, negative)
#define CODED_BY , __global const float *table
#elif HALF
#define WEIGHT half
#define WBITS 16
#define WCOPY 4
#define WFOUR(p, at) vload_half4(0, (p) + (at))
#define CODED_BY
#else
#define WEIGHT float
#define WBITS 32
#define WCOPY 4 /* weights of one copy */
#define WFOUR(p, at) (*(__local const float4 *)((p) + (at)))
#define CODED_BY
#endif
#define WSTAGE (D * KT * WBITS / 32)
#define STAGE (WSTAGE + D * PT) /* in float32 numbers */
#define ROOM (STAGES * STAGE > (SLICES > 1) * SLICES * KT * PT ? STAGES * STAGE : SLICES * KT * PT)

RS_KERNEL conv2d_dense_tile(__global const float *x, __global float *y, __global const float *bias,
                            __global const WEIGHT *w CODED_BY, __global int *arrived, __global float *sums JOINED_WITH,
                            const rs_args a RS_PLACE) {
    RS_LOCAL(ROOM)
#if TERNARY
    const float positive = table[1], negative = table[2];
#endif
    const int item = get_local_id(0), slice = item / TEAM, mate = item % TEAM;
    const int tk = mate / (PT / TP) * 4, tp = mate % (PT / TP) * 4; /* its first filter and pixel in the tile */
    const int plane = a.h * a.w, pixels = a.p * a.q, all = a.n * pixels;
#if FEW
    const int steps = 1, chunks = (a.r * a.s * a.c + D - 1) / D;
#else
    const int steps = (a.c + D - 1) / D, chunks = a.r * a.s * steps;
#endif
    const int pitch = (a.k + KT - 1) / KT * KT;
    const int rows = (a.k + KT - 1) / KT, tiles = rows * ((all + PT - 1) / PT);
    const int split = a.parts > 1;

    for (int unit = rs_group; unit < tiles * a.parts; unit += rs_groups) {
        const int tile = unit / a.parts, part = unit % a.parts;
        const int k0 = tile % rows * KT, j0 = tile / rows * PT;
        const int first = (int)((long)chunks * part / a.parts), last = (int)((long)chunks * (part + 1) / a.parts);

        /* the pixel that this work-item gathers, and where the next portion lies under the filter */
        const int j = j0 + item % PT, image = j / pixels, row = j % pixels / a.q, column = j % a.q;
        const int up = row * a.st0 - a.pd0, left = column * a.st1 - a.pd1;
        const int corner = (image * a.c * a.h + up) * a.w + left + item / PT * plane;
        int c0 = first % steps * D, r = first / steps / a.s, s = first / steps % a.s;

        float sum[TK][TP];
        #pragma unroll
        for (int i = 0; i < TK * TP; i++) sum[i / TP][i % TP] = 0;

        for (int chunk = first - STAGES + 1; chunk < last; chunk++) {
            if (chunk >= first) {
                COPIED(STAGES - 2);
                barrier(CLK_LOCAL_MEM_FENCE);
            }
            const int next = chunk + STAGES - 1;
            if (next < last) {
                __local float *to = rs_local + next % STAGES * STAGE;
                __global const uchar *from = (__global const uchar *)w + ((size_t)next * D * pitch + k0) * WBITS / 8;
                #pragma unroll
                for (int i = 0; i < D * KT / WCOPY; i += ITEMS) {
                    const int at = item + i, place = at / (KT / WCOPY) * pitch + at % (KT / WCOPY) * WCOPY;
                    if (D * KT / WCOPY % ITEMS == 0 || at < D * KT / WCOPY)
                        COPY(to + at * (WCOPY * WBITS / 32), from + place * WBITS / 8, WCOPY * WBITS / 8);
                }
                to += WSTAGE;
#if FEW
                #pragma unroll
                for (int i = 0; i < D; i += ITEMS / PT) {
                    const int place = next * D + i + item / PT, tap = place / a.c, c = place % a.c;
                    const int h = up + tap / a.s * a.dl0, v = left + tap % a.s * a.dl1;
                    const int inside = j < all && tap < a.r * a.s && h >= 0 && h < a.h && v >= 0 && v < a.w;
                    COPY_IF(inside, to + i * PT + item, x, ((image * a.c + c) * a.h + h) * a.w + v);
                }
#else
                const int h = up + r * a.dl0, v = left + s * a.dl1, at = corner + r * a.dl0 * a.w + s * a.dl1;
                const int inside = j < all && h >= 0 && h < a.h && v >= 0 && v < a.w;
                #pragma unroll
                for (int i = 0; i < D; i += ITEMS / PT)
                    COPY_IF(inside && c0 + i + item / PT < a.c, to + i * PT + item, x, at + (c0 + i) * plane);
                c0 += D;
                if (c0 >= a.c) {
                    c0 = 0;
                    if (++s == a.s) s = 0, r++;
                }
#endif
            }
            COPIES();
            if (chunk >= first) {
                __local const float *xs = rs_local + chunk % STAGES * STAGE + WSTAGE;
                __local const WEIGHT *ws = (__local const WEIGHT *)(xs - WSTAGE);
                #pragma unroll
                for (int d = 0; d < D / SLICES; d++) {
                    const int at = d * SLICES + slice;
                    float wr[TK], xr[TP];
                    #pragma unroll
                    for (int i = 0; i < TK; i += 4) vstore4(WFOUR(ws, at * KT + i / 4 * (KT / 2) + tk), 0, wr + i);
                    #pragma unroll
                    for (int m = 0; m < TP; m += 4) vstore4(LFOUR(xs + at * PT + m / 4 * (PT / 2) + tp), 0, xr + m);
                    #pragma unroll
                    for (int i = 0; i < TK; i++)
                        #pragma unroll
                        for (int m = 0; m < TP; m++) sum[i][m] = fma(wr[i], xr[m], sum[i][m]);
                }
            }
        }
        barrier(CLK_LOCAL_MEM_FENCE);

        /* these sums, [filter][pixel]: in memory for whoever comes last, or as results */
        __global float *mine = sums + (size_t)unit * KT * PT;
#if SLICES == 1
        #pragma unroll
        for (int i = 0; i < TK; i++)
            #pragma unroll
            for (int m = 0; m < TP; m += 4) {
                const int at = (i / 4 * (KT / 2) + tk + i % 4) * PT + m / 4 * (PT / 2) + tp;
                if (split)
                    LEAVE(mine + at, vload4(0, sum[i] + m));
                else
                    rs_finish4(y, bias, k0 + at / PT, j0 + at % PT, vload4(0, sum[i] + m), OTHER, a);
            }
#else
        /* the teams' sums side by side; then each work-item adds up some */
        #pragma unroll
        for (int i = 0; i < TK; i++)
            #pragma unroll
            for (int m = 0; m < TP; m += 4)
                LFOUR(rs_local + (slice * KT + i / 4 * (KT / 2) + tk + i % 4) * PT + m / 4 * (PT / 2) + tp) =
                    vload4(0, sum[i] + m);
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int i = 4 * item; i < KT * PT; i += 4 * ITEMS) {
            float4 total = LFOUR(rs_local + i);
            #pragma unroll
            for (int team = 1; team < SLICES; team++) total += LFOUR(rs_local + team * KT * PT + i);
            if (split)
                LEAVE(mine + i, total);
            else
                rs_finish4(y, bias, k0 + i / PT, j0 + i % PT, total, OTHER, a);
        }
#endif
        if (split && rs_last(arrived + tile, a.parts, (__local int *)rs_local)) {
            __global float *parts = sums + (size_t)tile * a.parts * KT * PT;
            for (int i = 4 * item; i < KT * PT; i += 4 * ITEMS) {
                float4 total = 0;
                for (int from = 0; from < a.parts; from += AT_ONCE) {
                    float4 next[AT_ONCE];
                    #pragma unroll
                    for (int e = 0; e < AT_ONCE; e++)
                        next[e] = from + e < a.parts ? FOUND(parts + (size_t)(from + e) * KT * PT + i) : 0;
                    #pragma unroll
                    for (int e = 0; e < AT_ONCE; e++) total += next[e];
                }
                rs_finish4(y, bias, k0 + i / PT, j0 + i % PT, total, OTHER, a);
            }
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}
