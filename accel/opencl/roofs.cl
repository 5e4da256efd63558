/* What a device can do at best: fused multiply-adds on registers, and reading memory.

   fma        Work-item  CHAINS chains of float4, `rounds` fused multiply-adds each, so that none can be left out
   read       Work-item  adds up every `items`-th float4 of x, `count` in all
   Next: refstack/backends/opencl/roofs.py */
#define CHAINS 8

__kernel void roof_fma(__global float *y, const int rounds, const float a, const float b) {
    float4 sum[CHAINS];
    for (int j = 0; j < CHAINS; j++) sum[j] = (float4)(get_global_id(0) + j);
    for (int i = 0; i < rounds; i++) {
        _Pragma("unroll") for (int j = 0; j < CHAINS; j++) sum[j] = sum[j] * a + b;
    }
    float4 all = 0;
    for (int j = 0; j < CHAINS; j++) all += sum[j];
    y[get_global_id(0)] = all.x + all.y + all.z + all.w;
}

__kernel void roof_read(__global const float4 *x, __global float *y, const int count) {
    float4 sum = 0;
    for (int i = get_global_id(0); i < count; i += get_global_size(0)) sum += x[i];
    y[get_global_id(0)] = sum.x + sum.y + sum.z + sum.w;
}
