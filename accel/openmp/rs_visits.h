/* How threads share the filters of a sparse layer. A visit is one filter in one block of channels. */
#ifndef RS_VISITS_H
#define RS_VISITS_H

#include "rs.h"

/* Those of the visits from .. to - 1 whose filter is one of `each` from `least` on. Without a branch, which would be
   guessed wrong every other time. */
enum { RS_VISITS = 256 };
RS_INLINE int64_t rs_mine(const int32_t *filters, int64_t from, int64_t to, int64_t least, int64_t each,
                          int32_t *mine) {
    int64_t count = 0;
    for (int64_t i = from; i < to; i++) {
        mine[count] = (int32_t)i;
        count += (uint32_t)filters[i] - (uint32_t)least < (uint32_t)each;
    }
    return count;
}

#endif
