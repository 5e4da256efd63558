/* Ternary convolution on blocked channels: two bits a weight in memory, floats only in registers.

       y[n,k,p,q] = activation(bias[k] + sum over c,r,s of  xpad[n, c, p*st + r*dl, q*st + s*dl] * w[k,c,r,s])
       w = 0, +positive or -negative, looked up by code (rs_ternary.h)

   The same register tiles as dense weights, so the same speed less the look-up, one vector for PX pixels; what is saved
   is memory: 1/16 of the bytes stream past where maps are small.

   Reads      pack[0] codes, in the order of rs_blocked.h;  pack[1] int64 {KB};  pack[2] table float32 (RS_V,)
   Numerics   every product is rounded with its sum, where formats/ternary.py scales two sums: nnz + 1 roundings */
#include "rs_ternary.h"

#include "rs_blocked.h"
#include "rs_map.h"

void rs_conv2d_ternary_blocked(const rs_args *a) { rs_blocked(a, rs_load(a->pack[2])); }
void rs_conv2d_ternary_map(const rs_args *a) { rs_map(a, rs_load(a->pack[2])); }
