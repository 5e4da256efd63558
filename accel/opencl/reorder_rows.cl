/* Numbers of nchw to lanes side by side or back, a row of one block at a time: for processors.

   Reads      x, nchw or nchw<lanes>c
   Writes     y, the other of the two; lanes beyond c as zeros
   Work-item  a row of w pixels of one block of channels
   Cost       bandwidth; one side is read or written `lanes` numbers at a time */
#define REORDER(name, type)                                                                                            \
    RS_KERNEL name(__global const type *x, __global type *y, const rs_args a RS_PLACE) {                               \
        const int lanes = max(a.x_block, a.y_block), blocks = (a.c + lanes - 1) / lanes, plane = a.h * a.w;            \
        RS_EACH(i, a.n * blocks * a.h) {                                                                               \
            const int h = i % a.h, block = i / a.h % blocks, n = i / (a.h * blocks);                                   \
            const int used = min(lanes, a.c - block * lanes);                                                          \
            const int flat = (n * a.c + block * lanes) * plane + h * a.w, side = i * a.w * lanes;                      \
            if (a.x_block == 1) {                                                                                      \
                for (int w = 0; w < a.w; w++)                                                                          \
                    for (int lane = 0; lane < lanes; lane++)                                                           \
                        y[side + w * lanes + lane] = lane < used ? x[flat + lane * plane + w] : 0;                     \
            } else {                                                                                                   \
                for (int lane = 0; lane < used; lane++)                                                                \
                    for (int w = 0; w < a.w; w++) y[flat + lane * plane + w] = x[side + w * lanes + lane];             \
            }                                                                                                          \
        }                                                                                                              \
    }
REORDER(reorder_float32_rows, float)
REORDER(reorder_int8_rows, char)
