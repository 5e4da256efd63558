/* Tiles on GPUs: copies into local memory that go on while a group computes, results four at a time.

   COPY(to, from, bytes)        4, 8 or 16 bytes, aligned         COPY_IF(c, to, from, at)   one number, or zero
   COPIES()                     closes a portion of copies        COPIED(n)   all have arrived but the last n portions
   A barrier comes behind COPIED, since each work-item knows of its own copies alone. NVIDIA's copies are asynchronous
   (compute capability 8.0 and up); elsewhere they are done when they are asked for. */
#ifndef RS_COPY
#define RS_COPY
#define FOUR(p) (*(__global float4 *)(p))
#define LFOUR(p) (*(__local float4 *)(p))

#if defined(__NV_CL_C_VERSION) && !defined(RS_NO_ASYNC)
#define LOCAL_AT(p) ((uint)(size_t)(p))
#define COPY(to, from, bytes)                                                                                          \
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(LOCAL_AT(to)), "l"(from), "n"(bytes) : "memory")
#define COPY_IF(c, to, from, at)                                                                                       \
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(LOCAL_AT(to)), "l"((from) + ((c) ? (at) : 0)),   \
                 "r"((c) ? 4 : 0) : "memory")
#define COPIES() asm volatile("cp.async.commit_group;" ::: "memory")
#define COPIED(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")
#else
static inline void rs_copy(__local void *to, __global const void *from, int bytes) {
    for (int i = 0; i < bytes / 4; i++) ((__local int *)to)[i] = ((__global const int *)from)[i];
}
#define COPY(to, from, bytes) rs_copy(to, from, bytes)
#define COPY_IF(c, to, from, at) *(to) = (c) ? (from)[at] : 0
#define COPIES()
#define COPIED(n)
#endif

/* Groups that finish each other's work: what they LEAVE in memory, whoever is rs_last has FOUND. Adding one to
   `arrived` releases what the group wrote and acquires what those before it did; OpenCL C 1.2 promises nothing of the
   kind between groups, so elsewhere every number is moved by an atomic. The last sets `arrived` to zero again. */
#ifdef __NV_CL_C_VERSION
#define LEAVE(p, four) FOUR(p) = four
#define FOUND(p) FOUR(p)
#define AT_ONCE 16 /* loads under way */
static inline int rs_arrive(volatile __global int *arrived) {
    int before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(arrived) : "memory");
    return before;
}
#else
#define AT_ONCE 1
static inline void LEAVE(volatile __global float *p, float4 four) {
    float numbers[4];
    vstore4(four, 0, numbers);
    for (int e = 0; e < 4; e++) atomic_xchg(p + e, numbers[e]);
}
static inline float4 FOUND(volatile __global float *p) {
    float numbers[4];
    for (int e = 0; e < 4; e++) numbers[e] = as_float(atomic_or((volatile __global int *)p + e, 0));
    return vload4(0, numbers);
}
static inline int rs_arrive(volatile __global int *arrived) {
    mem_fence(CLK_GLOBAL_MEM_FENCE);
    return atomic_inc(arrived);
}
#endif
static inline int rs_last(volatile __global int *arrived, int count, __local int *told) {
    barrier(CLK_GLOBAL_MEM_FENCE | CLK_LOCAL_MEM_FENCE);
    if (get_local_id(0) == 0) {
        *told = rs_arrive(arrived) == count - 1;
        if (*told) atomic_xchg(arrived, 0);
    }
    barrier(CLK_GLOBAL_MEM_FENCE | CLK_LOCAL_MEM_FENCE);
    return *told;
}

/* Four codes of two bits: 1 is the positive scale, 2 the negative one. */
static inline float4 rs_decode(int codes, float positive, float negative) {
    float w[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) w[i] = codes >> 2 * i & 1 ? positive : codes >> 2 * i & 2 ? negative : 0;
    return vload4(0, w);
}

/* Four sums of filter k, pixels `at` and after, finished and put to (n, k, p, q), as far as there are such. With
   `other`, and if a.joined says so, they are added to what lies there at the same place. */
static inline void rs_finish4(__global float *y, __global const float *bias, int k, int at, float4 sums,
                              __global const float *other, rs_args a) {
    const int pixels = a.p * a.q, all = a.n * pixels;
    if (k >= a.k) return;
    float four[4];
    vstore4(sums + bias[k], 0, four);
    #pragma unroll
    for (int e = 0; e < 4; e++) four[e] = rs_activate(four[e], a.activation);
    for (int e = 0; e < 4 && at + e < all; e++) {
        const int to = at + e;
        const size_t place = ((size_t)(to / pixels) * a.k + k) * pixels + to % pixels;
        if (pixels % 4 == 0) {
            if (other && a.joined >= 0) {
                float more[4];
                vstore4(FOUR(other + place), 0, more);
                #pragma unroll
                for (int i = 0; i < 4; i++) four[i] = rs_activate(four[i] + more[i], a.joined);
            }
            FOUR(y + place) = vload4(0, four);
            break;
        }
        y[place] = other && a.joined >= 0 ? rs_activate(four[e] + other[place], a.joined) : four[e];
    }
}
#endif

#undef JOINED_WITH
#undef OTHER
#if JOINED
#define JOINED_WITH , __global const float *other
#define OTHER other
#else
#define JOINED_WITH
#define OTHER 0
#endif
