/* Convolution with weights in half precision: two bytes a weight stream past where maps are small, floats multiply.

       y[n,k,p,q] = activation(bias[k] + sum over c,r,s of  xpad[n, c, p*st + r*dl, q*st + s*dl] * w[k,c,r,s])

   The register tiles of dense weights (rs_blocked.h, rs_map.h) with a conversion for every vector of weights. On large
   maps that costs more than the bytes are worth: there the weights become floats when the plan is made. */
#include "rs_half.h"

#include "rs_blocked.h"
#include "rs_map.h"

void rs_conv2d_half_blocked(const rs_args *a) { rs_blocked(a, (rs_vec){0}); }
void rs_conv2d_half_map(const rs_args *a) { rs_map(a, (rs_vec){0}); }
