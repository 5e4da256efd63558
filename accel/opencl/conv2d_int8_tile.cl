/* Integer convolutions and linear layers on GPUs: conv2d_dense_tile.cl in words of four channels.

       acc[k, j] = start[k] + sum over taps and fours of channels of  w[tap, fours, k] . x[fours, pixel j moved by tap]

   A tap outside the image meets the zero point there, which `start` has less of; sums are whole numbers, so any order
   gives the same. x comes byte by byte, by way of registers while the portion before is used.

   Constants  as for conv2d_dense_tile.cl, D in words
   Reads      x int8 nchw;  w int8 (taps, c/4 up to D, k up to KT, 4), zeros behind;  zero int32, four times a byte;
              start int32 (k,), requant (5, k), unit (k,)
   Writes     y int8 or float32 nchw, as rs_int8.cl finishes it; or sums int32 (parts, k, n*p*q)
   Work-group ITEMS work-items; parts * tiles of them
   Cost       8*KT*PT multiply-adds for KT + PT words brought; bitwise */
#include "rs_copy.cl"
#include "rs_int8.cl"

#undef TEAM
#undef SLICES
#undef STAGE
#undef ROOM
#undef FETCH
#define TEAM ((KT / TK) * (PT / TP))
#define SLICES (ITEMS / TEAM)
#define STAGE (D * (KT + PT))
#define ROOM (STAGES * STAGE > (SLICES > 1) * SLICES * KT * PT ? STAGES * STAGE : SLICES * KT * PT)
#define FETCH (D * PT / ITEMS)

RS_KERNEL conv2d_int8_tile(__global const char *x, __global void *y, __global const int *w, __global const int *zero,
                           __global const int *start, __global const int *requant, __global const float *unit,
                           __global int *sums, const rs_args a RS_PLACE) {
    RS_LOCAL(ROOM)
    __local int *room = (__local int *)rs_local;
    const int item = get_local_id(0), slice = item / TEAM, mate = item % TEAM;
    const int tk = mate / (PT / TP) * 4, tp = mate % (PT / TP) * 4;
    const int plane = a.h * a.w, pixels = a.p * a.q, all = a.n * pixels, outside = zero[0];
    const int steps = (a.c + 4 * D - 1) / (4 * D), chunks = a.r * a.s * steps, pitch = (a.k + KT - 1) / KT * KT;
    const int rows = (a.k + KT - 1) / KT, tiles = rows * ((all + PT - 1) / PT);

    for (int unit_ = rs_group; unit_ < tiles * a.parts; unit_ += rs_groups) {
        const int tile = unit_ / a.parts, part = unit_ % a.parts;
        const int k0 = tile % rows * KT, j0 = tile / rows * PT;
        const int first = (int)((long)chunks * part / a.parts), last = (int)((long)chunks * (part + 1) / a.parts);
        const int j = j0 + item % PT, image = j / pixels, row = j % pixels / a.q, column = j % a.q;
        const int up = row * a.st0 - a.pd0, left = column * a.st1 - a.pd1;
        const int corner = (image * a.c * a.h + up) * a.w + left;
        int c0 = first % steps * 4 * D, r = first / steps / a.s, s = first / steps % a.s;

        int sum[TK][TP];
        #pragma unroll
        for (int i = 0; i < TK * TP; i++) sum[i / TP][i % TP] = 0;

        for (int chunk = first - STAGES + 1; chunk < last; chunk++) {
            if (chunk >= first) {
                COPIED(STAGES - 2);
                barrier(CLK_LOCAL_MEM_FENCE);
            }
            const int next = chunk + STAGES - 1;
            __local int *to = room + next % STAGES * STAGE;
            int words[FETCH];
            if (next < last) {
                __global const int *from = w + (size_t)next * D * pitch + k0;
                #pragma unroll
                for (int i = 0; i < D * KT / 4; i += ITEMS) {
                    const int at = item + i;
                    if (D * KT / 4 % ITEMS == 0 || at < D * KT / 4)
                        COPY(to + 4 * at, from + at / (KT / 4) * pitch + at % (KT / 4) * 4, 16);
                }
                const int h = up + r * a.dl0, v = left + s * a.dl1, at = corner + r * a.dl0 * a.w + s * a.dl1;
                const int inside = j < all && h >= 0 && h < a.h && v >= 0 && v < a.w;
                #pragma unroll
                for (int i = 0; i < FETCH; i++) {
                    const int c = c0 + 4 * (item / PT + i * (ITEMS / PT));
                    char bytes[4];
                    #pragma unroll
                    for (int e = 0; e < 4; e++)
                        bytes[e] = inside && c + e < a.c ? x[at + (c + e) * plane] : (char)outside;
                    words[i] = as_int((char4)(bytes[0], bytes[1], bytes[2], bytes[3]));
                }
                c0 += 4 * D;
                if (c0 >= a.c) {
                    c0 = 0;
                    if (++s == a.s) s = 0, r++;
                }
            }
            COPIES();
            if (chunk >= first) {
                __local const int *ws = room + chunk % STAGES * STAGE, *xs = ws + D * KT;
                #pragma unroll
                for (int d = 0; d < D / SLICES; d++) {
                    const int at = d * SLICES + slice;
                    int wr[TK], xr[TP];
                    #pragma unroll
                    for (int i = 0; i < TK; i += 4)
                        vstore4(*(__local const int4 *)(ws + at * KT + i / 4 * (KT / 2) + tk), 0, wr + i);
                    #pragma unroll
                    for (int m = 0; m < TP; m += 4)
                        vstore4(*(__local const int4 *)(xs + at * PT + m / 4 * (PT / 2) + tp), 0, xr + m);
                    #pragma unroll
                    for (int i = 0; i < TK; i++)
                        #pragma unroll
                        for (int m = 0; m < TP; m++) sum[i][m] = rs_dp4a(wr[i], xr[m], sum[i][m]);
                }
            }
            if (next < last)
                #pragma unroll
                for (int i = 0; i < FETCH; i++) to[D * KT + item + i * ITEMS] = words[i];
        }
        barrier(CLK_LOCAL_MEM_FENCE);

#if SLICES > 1
        #pragma unroll
        for (int i = 0; i < TK; i++)
            #pragma unroll
            for (int m = 0; m < TP; m++)
                room[(slice * KT + i / 4 * (KT / 2) + tk + i % 4) * PT + m / 4 * (PT / 2) + tp + m % 4] = sum[i][m];
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int i = item; i < KT * PT; i += ITEMS) {
            const int k = k0 + i / PT, at = j0 + i % PT;
            int total = 0;
            #pragma unroll
            for (int team = 0; team < SLICES; team++) total += room[team * KT * PT + i];
            if (k < a.k && at < all) rs_put_int8(y, sums, k, at, total, part, start, requant, unit, a);
        }
        barrier(CLK_LOCAL_MEM_FENCE);
#else
        #pragma unroll
        for (int i = 0; i < TK; i++)
            #pragma unroll
            for (int m = 0; m < TP; m++) {
                const int k = k0 + i / 4 * (KT / 2) + tk + i % 4, at = j0 + m / 4 * (PT / 2) + tp + m % 4;
                if (k < a.k && at < all) rs_put_int8(y, sums, k, at, sum[i][m], part, start, requant, unit, a);
            }
#endif
    }
}
