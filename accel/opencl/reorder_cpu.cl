/* Between nchw and nchw16c: matrices of 16 channels x 16 pixels are turned over in registers.

   Reads      x, float32 or int8
   Writes     y, the same numbers; zeros in lanes beyond c
   Work-item  64 pixels of one block of channels
   Cost       bandwidth; bitwise */
#include "rs_cpu.cl"

/* One of four steps that turn 16 rows of 16 lanes over: each rotates the bits of (row, lane) by one. */
#define STEP(type, from, to)                                                                                           \
    PAIR(type, from, to, 0) PAIR(type, from, to, 1) PAIR(type, from, to, 2) PAIR(type, from, to, 3)                    \
    PAIR(type, from, to, 4) PAIR(type, from, to, 5) PAIR(type, from, to, 6) PAIR(type, from, to, 7)
#define PAIR(type, from, to, i)                                                                                        \
    to[i] = (type)(from[2 * i].even, from[2 * i + 1].even), to[i + 8] = (type)(from[2 * i].odd, from[2 * i + 1].odd);

/* y[j * to + i] = x[i * from + j] */
#define TURN(name, type, of)                                                                                           \
    typedef struct __attribute__((packed, aligned(sizeof(of)))) { type v; } name##_any;                                \
    RS_INLINE void turn_##name(__global const of *x, int from, __global of *y, int to) {                               \
        type a[16], b[16];                                                                                             \
        GET(name, 0) GET(name, 1) GET(name, 2) GET(name, 3) GET(name, 4) GET(name, 5) GET(name, 6) GET(name, 7)        \
        GET(name, 8) GET(name, 9) GET(name, 10) GET(name, 11) GET(name, 12) GET(name, 13) GET(name, 14) GET(name, 15)  \
        STEP(type, a, b) STEP(type, b, a) STEP(type, a, b) STEP(type, b, a)                                            \
        PUT(name, 0) PUT(name, 1) PUT(name, 2) PUT(name, 3) PUT(name, 4) PUT(name, 5) PUT(name, 6) PUT(name, 7)        \
        PUT(name, 8) PUT(name, 9) PUT(name, 10) PUT(name, 11) PUT(name, 12) PUT(name, 13) PUT(name, 14) PUT(name, 15)  \
    }
#define GET(name, i) a[i] = ((__global const name##_any *)(x + i * from))->v;
#define PUT(name, i) ((__global name##_any *)(y + i * to))->v = a[i];
TURN(float32, float16, float)
TURN(int8, char16, char)

#define REORDER(name, of)                                                                                              \
    RS_ALONE reorder_##name(__global const of *x, __global of *y, const rs_args a RS_WHICH) {                          \
        const int blocks = rs_ceil(a.c, V), pixels = a.h * a.w, block = rs_item(1) % blocks;                           \
        const int first = rs_item(0) * 64, end = min(pixels, first + 64), used = min(V, a.c - block * V);              \
        const int flat = (rs_item(1) / blocks * a.c + block * V) * pixels;                                             \
        const int lanes = rs_item(1) * pixels * V;                                                                     \
        for (int i = first; i < end; i += V) {                                                                         \
            const int here = min(V, end - i);                                                                          \
            __global const of *from = x + (a.y_block > 1 ? flat + i : lanes + i * V);                                  \
            __global of *to = y + (a.y_block > 1 ? lanes + i * V : flat + i);                                          \
            if (here == V && used == V) turn_##name(from, a.y_block > 1 ? pixels : V, to, a.y_block > 1 ? V : pixels); \
            else if (a.y_block > 1)                                                                                    \
                for (int j = 0; j < here * V; j++) to[j] = j % V < used ? from[j % V * pixels + j / V] : 0;            \
            else                                                                                                       \
                for (int c = 0; c < used; c++)                                                                         \
                    for (int j = 0; j < here; j++) to[c * pixels + j] = from[j * V + c];                               \
        }                                                                                                              \
    }
REORDER(float32, float)
REORDER(int8, char)
