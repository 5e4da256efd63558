/* How register tiles share out the blocks of output channels: groups of `most` (1, 2 or 4) blocks, then one of 2, then
   one of 1, as far as there are any left. packing.tiles lays the weights out in the same order. */
#ifndef RS_GROUPS_H
#define RS_GROUPS_H
#include "rs.h"

/* Neighbours (pixels, tiles) that register tiles share out: the widest that fit, then narrower ones. A last one of few
   would wait for its own sums, so 12 + 4 are 8 + 8. */
RS_INLINE int rs_fits(int64_t left, const int PX, const int KB) {
    return KB * PX <= RS_ACC && left >= PX && !(PX == 12 && left > 13 && left < 18);
}

typedef struct {
    int64_t first, size; /* blocks */
} rs_group;

RS_INLINE int64_t rs_groups(int64_t blocks, int64_t most) {
    return blocks / most + blocks % most / 2 + blocks % most % 2;
}

RS_INLINE rs_group rs_group_of(int64_t i, int64_t blocks, int64_t most) {
    const int64_t full = blocks / most;
    if (i < full) return (rs_group){i * most, most};
    if (i == full && blocks % most >= 2) return (rs_group){full * most, 2};
    return (rs_group){blocks - 1, 1};
}

#endif
