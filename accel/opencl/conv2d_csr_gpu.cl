/* Sparse convolutions and linear layers on GPUs: ROWS filters, one after another, and PT pixels for a work-group.

       y[k, j] = activation(bias[k] + sum over the stored weights of row k of  value * x[corner of pixel j + offset])

   Neighbouring work-items take neighbouring pixels, so that one stored weight is one broadcast and one coalesced load;
   256 / PT teams take a row's stored weights in turn and add up in local memory. The filters after the first find the
   pixels in the first cache.

   Constants  PT, a power of two up to 256;  ROWS
   Reads      x nchw;  bias (k,);  ends int32 (k,);  entries (nnz, 2): offset | tap << 26, then the value's bits
   Writes     y nchw
   Work-group ROWS filters, PT pixels
   Cost       2 loads for each multiply-add, one of them from the first cache's broadcast: bound by loads */
#undef TEAMS
#define TEAMS (256 / PT)

RS_KERNEL conv2d_csr_gpu(__global const float *x, __global float *y, __global const float *bias,
                         __global const int *ends, __global const int2 *entries, const rs_args a RS_PLACE) {
    RS_LOCAL(256)
    const int item = get_local_id(0), team = item / PT;
    const int plane = a.h * a.w, pixels = a.p * a.q, all = a.n * pixels, cg = a.c / a.g;
    const int tiles = (all + PT - 1) / PT, blocks = (a.k + ROWS - 1) / ROWS;
    for (int unit = rs_group; unit < blocks * tiles; unit += rs_groups) {
        const int j = unit / blocks * PT + item % PT, image = j / pixels, pixel = j % pixels;
        const int up = pixel / a.q * a.st0 - a.pd0, left = pixel % a.q * a.st1 - a.pd1;
        const int start = (image * a.c * a.h + up) * a.w + left;
        uint inside = 0; /* a bit for each tap */
        for (int r = 0; r < a.r && j < all; r++)
            for (int s = 0; s < a.s; s++) {
                const int h = up + r * a.dl0, v = left + s * a.dl1;
                inside |= (uint)(h >= 0 && h < a.h && v >= 0 && v < a.w) << (r * a.s + s);
            }
        const int k0 = unit % blocks * ROWS, behind = min(k0 + ROWS, a.k);
        for (int k = k0; k < behind; k++) {
            const int corner = start + k / (a.k / a.g) * cg * plane;
            const int first = k ? ends[k - 1] : 0, last = ends[k];
            float sum = 0;
            int at = first + team;
            for (; at + 3 * TEAMS < last; at += 4 * TEAMS) { /* four under way at once */
                float value[4], number[4];
                #pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int2 entry = entries[at + e * TEAMS];
                    value[e] = as_float(entry.y);
                    number[e] = inside >> ((uint)entry.x >> 26) & 1 ? x[corner + (entry.x & 0x3ffffff)] : 0;
                }
                #pragma unroll
                for (int e = 0; e < 4; e++) sum = fma(value[e], number[e], sum);
            }
            for (; at < last; at += TEAMS) {
                const int2 entry = entries[at];
                if (inside >> ((uint)entry.x >> 26) & 1)
                    sum = fma(as_float(entry.y), x[corner + (entry.x & 0x3ffffff)], sum);
            }
#if TEAMS > 1
            rs_local[item] = sum;
            barrier(CLK_LOCAL_MEM_FENCE);
            if (team == 0)
                for (int i = 1; i < TEAMS; i++) sum += rs_local[i * PT + item];
            barrier(CLK_LOCAL_MEM_FENCE);
#endif
            if (team == 0 && j < all)
                y[((size_t)image * a.k + k) * pixels + pixel] = rs_activate(sum + bias[k], a.activation);
        }
    }
}
