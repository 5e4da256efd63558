/* A vector of ternary weights from two bits each.

   Stored     one word for RS_V output channels; bits 2i and 2i+1 are the code of channel i (formats/ternary.py)
                  bit   31 30 | 29 28 | .. | 3 2 | 1 0
                  k        15 |    14 | .. |   1 |   0           RS_V = 16: 4 bytes where floats take 64
   Table      0, +positive, -negative, 0, and again: lane i looks up whatever its shifted word holds, modulo RS_V, so
              the codes of the lanes above it need not be cleared. */
#ifndef RS_TERNARY_H
#define RS_TERNARY_H

#include "rs.h"

#if RS_V == 16
typedef uint32_t rs_stored;
#elif RS_V == 8
typedef uint16_t rs_stored;
#else
typedef uint8_t rs_stored;
#endif
#define RS_STORED 1

RS_INLINE rs_vec rs_weights(const rs_stored *w, rs_vec table) {
    typedef uint32_t words __attribute__((vector_size(4 * RS_V)));
    words shift = {0, 2, 4, 6};
    for (int i = 4; i < RS_V; i++) shift[i] = 2 * i;
    return rs_look_up(table, (rs_ivec)(((words){0} + *w) >> shift));
}

#endif
