/* Many steps in one launch: every work-group walks the table, and all meet between steps.

       for step in steps: wait for all groups; function[step.kind](its arrays, its arguments)

   A launch costs its caller some 7 us, a meeting 1 to 2 (on processors 4 and 0.2, and tens for threads that fell
   asleep). All groups must run at once, or those that wait keep the others out: fused.py launches no more than fit. One
   that waits for seconds ends the launch with an error.
   Behind this file stands `walk` itself, written by program.py: a case of a switch for each kind of step.

   Coherence  what one group wrote before a meeting every group reads after it: arriving releases it to the whole
              device, seeing the last one arrive acquires it, which on NVIDIA drops what the first cache holds
   RS_SPANS   for processors: groups of one work-item, which meet without barriers */
#ifdef __NV_CL_C_VERSION
#define ARRIVE(met) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(met) : "memory")
#define GIVE_UP() asm volatile("trap;")
static inline int rs_arrived(volatile __global int *met) {
    int count;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(met) : "memory");
    return count;
}
#elif defined(RS_SPANS) && defined(__clang__)
#define ARRIVE(met) __atomic_add_fetch(met, 1, __ATOMIC_RELEASE)
#define GIVE_UP()
static inline int rs_arrived(volatile __global int *met) { return __atomic_load_n(met, __ATOMIC_ACQUIRE); }
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
    int kind, wait, shift; /* whether all meet before it; which group is first */
    int items[3], at[13];  /* work-items, of RS_ALONE; arrays, in 16 bytes, -1: what is given */
    rs_args a;
} rs_step;

#ifdef RS_SPANS
#define AT(j) ((__global void *)(steps[i].at[j] < 0 ? given : memory + 16 * (size_t)steps[i].at[j]))
#define TOGETHER()
#define RS_NEVER(met) met[1] /* a launch that is given up waits no more */

/* Between two looks: the other half of the core gets on, and soon whoever else wants this processor, which may be the
   group that is waited for. OpenCL has no word for either. */
static inline void rs_rest(int looks) {
#if defined(__x86_64__) && defined(__linux__)
    long call = 24; /* sched_yield */
    if (looks < 256) __builtin_ia32_pause();
    else __asm__ volatile("syscall" : "+a"(call) : : "rcx", "r11", "memory");
#elif defined(__aarch64__) && defined(__linux__)
    register long result __asm__("x0"), call __asm__("x8") = 124;
    if (looks < 256) __asm__ volatile("yield");
    else __asm__ volatile("svc 0" : "=r"(result) : "r"(call) : "memory");
#endif
}

typedef struct {
    int at[3], of[3];
} rs_which;

/* A function that calls another for every work-item in a group's share of step i. */
#define RS_SHARE(name, call)                                                                                           \
    static __attribute__((noinline)) void name(__global uchar *memory, __global uchar *given,                          \
                                               __constant const rs_step *steps, int i, int group, int groups) {        \
        const int x = steps[i].items[0], y = steps[i].items[1], z = steps[i].items[2];                                 \
        const int end = (long)x * y * z * (group + 1) / groups;                                                        \
        for (int j = (long)x * y * z * group / groups; j < end; j++) {                                                 \
            const rs_which item = {{j % x, j / x % y, j / x / y}, {x, y, z}};                                          \
            call;                                                                                                      \
        }                                                                                                              \
    }
#else
#define AT(j) ((__global void *)(memory + 16 * (size_t)steps[i].at[j]))
#define TOGETHER() barrier(CLK_GLOBAL_MEM_FENCE | CLK_LOCAL_MEM_FENCE)
#define RS_NEVER(met) 0
#define rs_rest(looks)
#endif

/* All groups wait for each other. met[0] counts the arrivals of this launch; met[1] says that some did not come. */
static inline void rs_meet(volatile __global int *met, int goal, int patience) {
    TOGETHER();
    if (get_local_id(0) == 0) {
        ARRIVE(met);
        for (int i = 0; rs_arrived(met) < goal; i++) {
            rs_rest(i);
            if (i > patience || RS_NEVER(met)) {
                met[1] = 1;
                if (patience == PATIENCE) GIVE_UP();
                break;
            }
        }
    }
    TOGETHER();
}

/* After the last step: whoever comes last sets the counter to zero for the next launch. */
static inline void rs_part(volatile __global int *met, int goal) {
    TOGETHER();
    if (get_local_id(0) == 0 && atomic_inc(met) == goal - 1) atomic_xchg(met, 0);
}
