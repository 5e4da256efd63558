/* Calls kernels for a process on another machine: what stands on stdin is one call, what goes to stdout its output.

       call    = int64[8] {function, threads, inputs, packs, input whose place the output takes or -1,
                           bytes of y, of scratch, of bias or -1}
                 int64 bytes of each input, then of each pack
                 rs_args, of which the pointers are ignored
                 inputs, y, scratch, bias, packs, end to end
       answer  = the bytes of y

   First of all it says RS_V. Every array ends where a page begins that nobody may touch: a kernel that goes too far
   ends this process, and its caller hears nothing more. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rs.h"

#define RS_FUNCTION(name) rs_fn name;
#include "functions.h"
#undef RS_FUNCTION

#define RS_FUNCTION(name) name,
static rs_fn *const functions[] = {
#include "functions.h"
};

void rs_run(const rs_step *steps, int64_t count, int64_t threads);

enum { MOST = 64 };
enum { FUNCTION, THREADS, INPUTS, PACKS, PLACE, Y_BYTES, SCRATCH_BYTES, BIAS_BYTES, HEAD };

typedef struct {
    char *map;
    size_t size;
    void *array;
    int64_t bytes;
} room;

static void receive(void *to, int64_t bytes) {
    if (bytes && fread(to, 1, bytes, stdin) != (size_t)bytes) exit(feof(stdin) ? 0 : 3);
}

/* Bytes from stdin, up to the guard page behind them; `align` may leave a few free before it. */
static room take(int64_t bytes, int64_t align) {
    const int64_t page = sysconf(_SC_PAGESIZE), whole = rs_ceil(bytes ? bytes : 1, page) * page;
    room r = {.size = whole + page, .bytes = bytes};
    r.map = mmap(NULL, r.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r.map == MAP_FAILED || mprotect(r.map + whole, page, PROT_NONE)) exit(4);
    r.array = r.map + whole - rs_ceil(bytes, align) * align;
    receive(r.array, bytes);
    return r;
}

int main(void) {
    const int64_t width = RS_V;
    fwrite(&width, sizeof width, 1, stdout);
    fflush(stdout);
    for (;;) {
        int64_t head[HEAD], sizes[2 * MOST];
        receive(head, sizeof head);
        if (head[INPUTS] > MOST || head[PACKS] > MOST) exit(5);
        receive(sizes, sizeof *sizes * (head[INPUTS] + head[PACKS]));
        rs_args args;
        receive(&args, sizeof args);

        room rooms[2 * MOST + 3];
        const void *x[MOST], *pack[MOST];
        int count = 0;
        for (int i = 0; i < head[INPUTS]; i++) x[i] = (rooms[count++] = take(sizes[i], 1)).array;
        const room y = rooms[count++] = take(head[PLACE] < 0 ? head[Y_BYTES] : 0, 1);
        const room scratch = rooms[count++] = take(head[SCRATCH_BYTES], 64);
        const room bias = rooms[count++] = take(head[BIAS_BYTES] < 0 ? 0 : head[BIAS_BYTES], 1);
        for (int i = 0; i < head[PACKS]; i++) pack[i] = (rooms[count++] = take(sizes[head[INPUTS] + i], 1)).array;

        args.x = x, args.pack = pack, args.scratch = scratch.array;
        args.y = head[PLACE] < 0 ? y.array : (void *)x[head[PLACE]];
        args.bias = head[BIAS_BYTES] < 0 ? NULL : bias.array;
        const rs_step step = {functions[head[FUNCTION]], &args};
        rs_run(&step, 1, head[THREADS]);
        fwrite(args.y, 1, head[Y_BYTES], stdout);
        fflush(stdout);
        for (int i = 0; i < count; i++) munmap(rooms[i].map, rooms[i].size);
    }
}
