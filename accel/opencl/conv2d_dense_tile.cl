/* Convolutions and linear layers on GPUs: a matrix product of tiles of KT filters x PT pixels, gathered on the way.

       y[k, j] = activation(bias[k] + sum over taps and channels of  w[tap, c, k] * x[c, pixel j moved by tap])

   A work-group computes a tile. It brings D rows of both operands at a time (D channels under one tap) into local
   memory, the next ones on their way in registers meanwhile. Its work-items form SLICES teams that share the rows out;
   one has TK x TP sums in registers. Where tiles are too few to fill a device, `parts` groups share the sum
   of one tile and leave raw sums, which conv2d_dense_sum adds up in their order.

       rows of w   tap 0: c 0..D-1 | D..2D-1 | ..   tap 1: ..          filters ->        pixels ->
                                                                   D   [ KT w ]     D   [ PT x ]

   Constants  KT PT TK TP D as above, TK and TP 4 or 8;  HALF = 1: w in float16, arithmetic in float32
   Reads      x nchw;  bias (k,);  w (taps, c up to D, k up to KT), zeros behind
   Writes     y nchw, or sums (parts, k, n*p*q)
   Work-group ITEMS work-items; parts * tiles of them
   Cost       2*KT*PT multiply-adds for KT + PT numbers brought; bound by the multiply-adds from 64 x 64 on */
#ifndef ITEMS
#define ITEMS 256
/* Sixteen-byte accesses: whoever asks knows that they are aligned. */
#define FOUR(p) (*(__global float4 *)(p))
#define LFOUR(p) (*(__local float4 *)(p))
#endif

#undef TEAM
#undef SLICES
#undef STAGE
#undef FETCH_W
#undef FETCH_X
#undef ROOM
#undef WEIGHT
#undef WFOUR
#define TEAM ((KT / TK) * (PT / TP))
#define SLICES (ITEMS / TEAM)
#define STAGE (D * (KT + PT))
#define FETCH_W ((D * KT / 4 + ITEMS - 1) / ITEMS) /* times four weights, and pixels, that a work-item brings */
#define FETCH_X (D * PT / ITEMS)
#define ROOM (2 * STAGE > SLICES / 2 * KT * PT ? 2 * STAGE : SLICES / 2 * KT * PT)
#if HALF
#define WEIGHT half
#define WFOUR(p) vload_half4(0, p)
#else
#define WEIGHT float
#define WFOUR(p) (*(__global const float4 *)(p))
#endif

RS_KERNEL conv2d_dense_tile(__global const float *x, __global float *y, __global const float *bias,
                            __global const WEIGHT *w, __global float *sums, const rs_args a RS_PLACE) {
    RS_LOCAL(ROOM)
    const int item = get_local_id(0), slice = item / TEAM, mate = item % TEAM;
    const int tk = mate / (PT / TP) * 4, tp = mate % (PT / TP) * 4; /* its first filter and pixel in the tile */
    const int plane = a.h * a.w, pixels = a.p * a.q, all = a.n * pixels;
    const int steps = (a.c + D - 1) / D, chunks = a.r * a.s * steps, pitch = (a.k + KT - 1) / KT * KT;
    const int rows = (a.k + KT - 1) / KT, tiles = rows * ((all + PT - 1) / PT);

    for (int unit = rs_group; unit < tiles * a.parts; unit += rs_groups) {
        const int tile = unit / a.parts, part = unit % a.parts;
        const int k0 = tile % rows * KT, j0 = tile / rows * PT;
        const int first = (int)((long)chunks * part / a.parts), last = (int)((long)chunks * (part + 1) / a.parts);

        /* the pixel that this work-item gathers, and where the next chunk lies under the filter */
        const int j = j0 + item % PT, image = j / pixels, row = j % pixels / a.q, column = j % a.q;
        const int up = row * a.st0 - a.pd0, left = column * a.st1 - a.pd1, corner = (image * a.c * a.h + up) * a.w + left;
        int c0 = first % steps * D, r = first / steps / a.s, s = first / steps % a.s;

        float sum[TK][TP];
        for (int i = 0; i < TK; i++)
            for (int m = 0; m < TP; m++) sum[i][m] = 0;
        float4 w_next[FETCH_W];
        float x_next[FETCH_X];

        for (int chunk = first;; chunk++) {
            if (chunk < last) {
                __global const WEIGHT *from = w + (size_t)chunk * D * pitch + k0;
                #pragma unroll
                for (int i = 0; i < FETCH_W; i++) {
                    const int at = item + i * ITEMS;
                    if (D * KT / 4 % ITEMS == 0 || at < D * KT / 4)
                        w_next[i] = WFOUR(from + at / (KT / 4) * pitch + at % (KT / 4) * 4);
                }
                const int h = up + r * a.dl0, v = left + s * a.dl1;
                const int inside = j < all && h >= 0 && h < a.h && v >= 0 && v < a.w;
                const int at = corner + r * a.dl0 * a.w + s * a.dl1;
                #pragma unroll
                for (int i = 0; i < FETCH_X; i++) {
                    const int c = c0 + item / PT + i * (ITEMS / PT);
                    x_next[i] = inside && c < a.c ? x[at + c * plane] : 0;
                }
                c0 += D;
                if (c0 >= a.c) {
                    c0 = 0;
                    if (++s == a.s) s = 0, r++;
                }
            }
            if (chunk > first) {
                __local const float *ws = rs_local + (chunk - 1 & 1) * STAGE, *xs = ws + D * KT;
                #pragma unroll
                for (int d = 0; d < D / SLICES; d++) {
                    const int at = d * SLICES + slice;
                    float wr[TK], xr[TP];
                    #pragma unroll
                    for (int i = 0; i < TK; i += 4) vstore4(LFOUR(ws + at * KT + i / 4 * (KT / 2) + tk), 0, wr + i);
                    #pragma unroll
                    for (int m = 0; m < TP; m += 4) vstore4(LFOUR(xs + at * PT + m / 4 * (PT / 2) + tp), 0, xr + m);
                    #pragma unroll
                    for (int i = 0; i < TK; i++)
                        #pragma unroll
                        for (int m = 0; m < TP; m++) sum[i][m] = fma(wr[i], xr[m], sum[i][m]);
                }
            }
            if (chunk == last) break;
            __local float *ws = rs_local + (chunk & 1) * STAGE, *xs = ws + D * KT;
            #pragma unroll
            for (int i = 0; i < FETCH_W; i++)
                if (D * KT / 4 % ITEMS == 0 || item + i * ITEMS < D * KT / 4) LFOUR(ws + 4 * (item + i * ITEMS)) = w_next[i];
            #pragma unroll
            for (int i = 0; i < FETCH_X; i++) xs[item + i * ITEMS] = x_next[i];
            barrier(CLK_LOCAL_MEM_FENCE);
        }
        barrier(CLK_LOCAL_MEM_FENCE);

        /* the teams' sums, in halves */
        #pragma unroll
        for (int half_ = SLICES / 2; half_ > 0; half_ /= 2) {
            if (slice >= half_ && slice < 2 * half_)
                #pragma unroll
                for (int i = 0; i < TK * TP; i++)
                    rs_local[(slice - half_) * KT * PT + i * TEAM + mate] = sum[i / TP][i % TP];
            barrier(CLK_LOCAL_MEM_FENCE);
            if (slice < half_)
                #pragma unroll
                for (int i = 0; i < TK * TP; i++)
                    sum[i / TP][i % TP] += rs_local[slice * KT * PT + i * TEAM + mate];
            barrier(CLK_LOCAL_MEM_FENCE);
        }
        if (slice == 0) {
            #pragma unroll
            for (int m = 0; m < TP; m += 4) {
                const int to = j0 + m / 4 * (PT / 2) + tp, n = to / pixels, pixel = to % pixels;
                #pragma unroll
                for (int i = 0; i < TK; i++) {
                    const int k = k0 + i / 4 * (KT / 2) + tk + i % 4;
                    if (k >= a.k || to >= all) continue;
                    const float add = a.parts > 1 ? 0 : bias[k];
                    const int activation = a.parts > 1 ? 0 : a.activation;
                    float four[4];
                    #pragma unroll
                    for (int e = 0; e < 4; e++) four[e] = rs_activate(sum[i][m + e] + add, activation);
                    __global float *place = a.parts > 1 ? sums + ((size_t)part * a.k + k) * all + to
                                                        : y + ((size_t)n * a.k + k) * pixels + pixel;
                    if (pixels % 4 == 0) FOUR(place) = vload4(0, four);
                    else
                        for (int e = 0; e < 4; e++) {
                            const int other = to + e;
                            if (other >= all) break;
                            if (a.parts > 1) place[e] = four[e];
                            else y[((size_t)(other / pixels) * a.k + k) * pixels + other % pixels] = four[e];
                        }
                }
            }
        }
    }
}

#ifndef SUMMED
#define SUMMED
/* The parts of every sum, in their order. */
RS_KERNEL conv2d_dense_sum(__global const float *x, __global float *y, __global const float *bias,
                           __global const void *w, __global const float *sums, const rs_args a RS_PLACE) {
    const int pixels = a.p * a.q, all = a.n * pixels;
    RS_EACH(i, a.k * all) {
        const int k = i / all, j = i % all;
        float sum = bias[k];
        for (int part = 0; part < a.parts; part++) sum += sums[(size_t)part * a.k * all + i];
        y[((size_t)(j / pixels) * a.k + k) * pixels + j % pixels] = rs_activate(sum, a.activation);
    }
}
#endif
