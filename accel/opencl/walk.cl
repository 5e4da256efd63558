/* Many steps in one launch: every work-group walks the table, and all meet between steps.

       for step in steps: wait for all groups; function[step.kind](its arrays, its arguments)

   A launch costs its caller some 7 us, a meeting 1 to 2. All groups must run at once, or those that wait keep the
   others out: fused.py launches no more than fit. One that waits for seconds ends the launch with an error.
   Behind this file stands `walk` itself, written by fused.py: a case of a switch for each kind of step.

   Coherence  what one group wrote before a meeting every group reads after it: arriving releases it to the whole
              device, seeing the last one arrive acquires it, which on NVIDIA drops what the first cache holds */
#ifdef __NV_CL_C_VERSION
#define ARRIVE(met) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(met) : "memory")
#define GIVE_UP() asm volatile("trap;")
static inline int rs_arrived(volatile __global int *met) {
    int count;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(met) : "memory");
    return count;
}
#else
#define ARRIVE(met)                                                                                                    \
    do {                                                                                                               \
        mem_fence(CLK_GLOBAL_MEM_FENCE);                                                                               \
        atomic_inc(met);                                                                                               \
    } while (0)
#define GIVE_UP()
static inline int rs_arrived(volatile __global int *met) {
    const int count = atomic_add(met, 0);
    mem_fence(CLK_GLOBAL_MEM_FENCE);
    return count;
}
#endif
#define PATIENCE (1 << 23) /* looks at the counter, seconds */

/* For profiles: the cycles of one compute unit at the start of each step and at the end. */
#if defined(TIMED) && defined(__NV_CL_C_VERSION)
#define STAMP(i)                                                                                                       \
    if (get_group_id(0) == 0 && get_local_id(0) == 0) {                                                                \
        ulong now;                                                                                                     \
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));                                                        \
        times[i] = now;                                                                                                \
    }
#else
#define STAMP(i)
#endif

typedef struct {
    int kind, wait, shift, at[13]; /* whether all meet before it; which group is first; arrays, in 16 bytes */
    rs_args a;
} rs_step;

/* All groups wait for each other. met[0] counts the arrivals of this launch; met[1] says that some did not come. */
static inline void rs_meet(volatile __global int *met, int goal, int patience) {
    barrier(CLK_GLOBAL_MEM_FENCE | CLK_LOCAL_MEM_FENCE);
    if (get_local_id(0) == 0) {
        ARRIVE(met);
        for (int i = 0; rs_arrived(met) < goal; i++)
            if (i > patience) {
                met[1] = 1;
                if (patience == PATIENCE) GIVE_UP();
                break;
            }
    }
    barrier(CLK_GLOBAL_MEM_FENCE | CLK_LOCAL_MEM_FENCE);
}

/* After the last step: whoever comes last sets the counter to zero for the next launch. */
static inline void rs_part(volatile __global int *met, int goal) {
    barrier(CLK_GLOBAL_MEM_FENCE | CLK_LOCAL_MEM_FENCE);
    if (get_local_id(0) == 0 && atomic_inc(met) == goal - 1) atomic_xchg(met, 0);
}
