/* Dense convolution on blocked channels: a vector of weights is RS_V floats, read as they lie.

       y[n,k,p,q] = activation(bias[k] + sum over c,r,s of  xpad[n, c, p*st + r*dl, q*st + s*dl] * w[k,c,r,s])

   The register tile is drawn in rs_blocked.h, the whole small map in rs_map.h. */
#include "rs.h"

typedef float rs_stored;
#define RS_STORED RS_V
RS_INLINE rs_vec rs_weights(const rs_stored *w, rs_vec table) {
    (void)table;
    return rs_load(w);
}

#include "rs_blocked.h"
#include "rs_map.h"

void rs_conv2d_dense_blocked(const rs_args *a) { rs_blocked(a, (rs_vec){0}); }
void rs_conv2d_dense_map(const rs_args *a) { rs_map(a, (rs_vec){0}); }
