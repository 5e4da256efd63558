"""Faults that a kernel, the checker or the reference might have, written by hand: each must be found out.

SANITIZED are faults that ASan and UBSan must see, `by` is what they say. Numbers are those of the plan (docs/mutation.md): index and loops 1-17, sums 18-30, sparse and ternary 31-38, activation,
norm and pooling 39-42, concurrency and state 43-49, Python 50-55. `new` replaces `old`, which stands in `file` once.
"""

from __future__ import annotations

from dataclasses import dataclass

from mutation.tree import C, Change


@dataclass(frozen=True)
class Kernel:
    """A fault in what a kernel does.

    unit        the C file to compile            rows        glob: some row of these must be refused
    by          what is expected to find it      file        where the text stands, if not in the unit
    """

    number: str
    what: str
    unit: str
    rows: str
    old: str
    new: str
    by: str
    file: str = ""

    @property
    def change(self) -> Change:
        return Change(self.file or f"{C}/{self.unit}", self.old, self.new)


@dataclass(frozen=True)
class Python:
    """A fault in Python, that tests find."""

    number: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def change(self) -> Change:
        return Change(self.file, self.old, self.new)


PACKING = "refstack/backends/packing.py"

# fmt: off
KERNELS = (
    # Index and loops
    Kernel("1", "top padding forgotten", "conv2d_dense_direct.c", "conv2d.dense.*",
           "a->dl[0] - a->pd[0]", "a->dl[0]", "integer"),
    Kernel("2", "row h of an image of h rows is read", "conv2d_int8_depthwise.c", "conv2d.int8.*",
           "h >= m->a->h", "h > m->a->h", "guard"),
    Kernel("3", "column w of an image of w columns is read", "conv2d_csr_direct.c", "conv2d.csr.*",
           "w < a->w", "w <= a->w", "guard"),
    Kernel("4", "last column of taps dropped", "conv2d_dense_depthwise.c", "conv2d.dense.*",
           "s < s1; s++, x", "s < s1 - 1; s++, x", "impulse"),
    Kernel("5", "last channel of an odd number dropped", "linear_dense.c", "linear.dense.*",
           "for (; c < a->c; c++)", "for (; c < a->c - 1; c++)", "impulse"),
    Kernel("6", "last full vector left to a tail that is not there", "conv2d_csr_planar.c", "conv2d.csr.*",
           "e + SETS <= end", "e + SETS < end", "integer"),
    Kernel("7", "tail starts one late", "pointwise.c", "relu.*",
           "for (; i < end; i++) y[i] = rs_activate1(x[i]", "for (i++; i < end; i++) y[i] = rs_activate1(x[i]", "poison"),
    Kernel("8", "filters beyond the last full vector unwritten", "linear_ternary.c", "linear.ternary.*",
           "memcpy((float *)a->y", "if (a->k - b * RS_V >= RS_V) memcpy((float *)a->y", "poison"),
    Kernel("9", "strides swapped", "conv2d_dense_blocked.c", "conv2d.dense.*",
           ".st = a->st[0]", ".st = a->st[1]", "integer", f"{C}/rs_blocked.h"),
    Kernel("10", "paddings swapped", "conv2d_int8_direct.c", "conv2d.int8.*",
           "a->dl[0] - a->pd[0]", "a->dl[0] - a->pd[1]", "integer"),
    Kernel("11", "dilations swapped", "conv2d_csr_direct.c", "conv2d.csr.*", "* a->dl[0]", "* a->dl[1]", "integer"),
    Kernel("12", "dilation ignored where there is a stride", "conv2d_dense_direct.c", "conv2d.dense.*",
           "s * a->dl[1]", "s * (a->st[1] > 1 ? 1 : a->dl[1])", "integer"),
    Kernel("13", "width of the filter taken for its height", "conv2d_dense_direct.c", "conv2d.dense.*",
           "+ c) * a->r + r)", "+ c) * a->s + r)", "integer"),
    Kernel("14", "groups start at g * c instead of g * c/g", "conv2d_int8_direct.c", "conv2d.int8.*",
           "k / kg * cg + c)", "k / kg * a->c + c)", "guard"),
    Kernel("15", "every image is the first", "linear_int8.c", "linear.int8.*",
           "(const uint8_t *)a->scratch + n * fours * 4;", "(const uint8_t *)a->scratch;", "integer"),
    Kernel("16", "filter upside down", "conv2d_dense_depthwise.c", "conv2d.dense.*",
           "(r * S + s0) * RS_V", "((R - 1 - r) * S + s0) * RS_V", "impulse"),
    Kernel("17", "weight read as (c, k, r, s)", "conv2d_dense_direct.c", "conv2d.dense.*",
           "((k * cg + c) *", "((c * kg + k % kg) *", "impulse"),
    # Sums and precision
    Kernel("18", "sums not cleared between filters", "conv2d_csr_direct.c", "linear.csr.*",
           "float sum[4] = {a->bias[k]};", "static _Thread_local float sum[4]; sum[0] = a->bias[k];", "integer"),
    Kernel("19", "adds to the output", "avgpool.c", "avgpool.*", "y[i] = sum[i] / count", "y[i] += sum[i] / count", "poison"),
    Kernel("20", "no bias", "conv2d_dense_depthwise.c", "conv2d.dense.*", "acc[i] = m->bias", "acc[i] = (rs_vec){0}", "integer"),
    Kernel("21", "bias twice", "linear_dense.c", "linear.dense.*",
           "sum = rs_load(a->bias", "sum = 2 * rs_load(a->bias", "integer"),
    Kernel("22", "sums kept in half precision", "conv2d_dense_direct.c", "conv2d.dense.*",
           "row[q] += tap * line[q * st]", "row[q] = (float)(_Float16)(row[q] + tap * line[q * st])", "integer"),
    Kernel("23", "inputs rounded to TF32", "conv2d_dense_blocked.c", "conv2d.dense.openmp.blocked",
           "{ return x - (rs_vec){0}; }",
           "{ int32_t i; memcpy(&i, &x, 4); i = (i + 0x1000) & ~0x1fff; memcpy(&x, &i, 4); return x - (rs_vec){0}; }",
           "impulse", f"{C}/rs.h"),
    Kernel("24", "weights rounded to half precision", "conv2d_dense_blocked.c", "conv2d.dense.openmp.blocked",
           "return rs_load(w);",
           "rs_vec v = rs_load(w); for (int i = 0; i < RS_V; i++) v[i] = (float)(_Float16)v[i]; return v;", "impulse"),
    Kernel("25", "pairs of products saturate at 16 bits", "linear_int8.c", "linear.int8.*",
           "const uint8_t *x, const int8_t *w) {", """const uint8_t *x, const int8_t *w) {
    for (int i = 0; i < RS_V; i++)
        for (int j = 0; j < 4; j += 2) {
            const int sum = x[j] * w[4 * i + j] + x[j + 1] * w[4 * i + j + 1];
            acc[i] += sum > 32767 ? 32767 : sum < -32768 ? -32768 : sum;
        }
    return acc;""", "extremes", f"{C}/rs_int8.h"),
    Kernel("26", "integer sums kept in float32", "conv2d_int8_direct.c", "conv2d.int8.*",
           "int32_t acc = f.constant[k];", "float acc = f.constant[k];", "largest"),
    Kernel("27", "halves rounded to even", "conv2d_int8_direct.c", "conv2d.int8.*",
           "const int64_t v = (((int64_t)acc * f->m0[k] + half) >> f->shift[k]) + f->zero[k];",
           "const int64_t t = (int64_t)acc * f->m0[k] + half; const int even = half && !(t & (2 * half - 1)); "
           "const int64_t v = (t >> f->shift[k]) - (even && (t >> f->shift[k] & 1)) + f->zero[k];",
           "ties", f"{C}/rs_int8.h"),
    Kernel("28", "rounded twice", "conv2d_int8_direct.c", "conv2d.int8.*",
           "(((int64_t)acc * f->m0[k] + half) >> f->shift[k])",
           "(((((int64_t)acc * f->m0[k] + (half >> 8)) >> (f->shift[k] - 8)) + 128) >> 8)",
           "integer", f"{C}/rs_int8.h"),
    Kernel("29", "no clamping", "linear_int8.c", "linear.int8.*",
           "rs_max(f->low[k], rs_min(f->high[k], v))", "v", "integer", f"{C}/rs_int8.h"),
    Kernel("30", "padding holds 0 instead of the zero point", "conv2d_int8_blocked.c", "conv2d.int8.openmp.stem",
           "(int)(zero_point + 128)", "128", "integer"),
    # Sparse and ternary
    Kernel("31", "last row ends one early", "conv2d_csr_direct.c", "linear.csr.*",
           "for (; e < indptr[k + 1]; e++)", "for (; e < indptr[k + 1] - (k == a->k - 1); e++)", "integer"),
    Kernel("32", "column of a tap taken modulo the filter's height", "conv2d_csr_planar.c", "conv2d.csr.*",
           "np.divmod(tap, self.op.kernel[1])", "np.divmod(tap, self.op.kernel[0])", "integer", PACKING),
    Kernel("33", "rows of one entry skipped", "conv2d_csr_direct.c", "conv2d.csr.*",
           "for (int64_t e = indptr[k]; e < indptr[k + 1]; e++) {",
           "for (int64_t e = indptr[k]; e < indptr[k + 1] && indptr[k + 1] - indptr[k] > 1; e++) {", "impulse"),
    Kernel("35", "ternary signs swapped", "linear_ternary.c", "linear.ternary.*",
           "[0, weight.scales[0], -weight.scales[1], 0]", "[0, -weight.scales[1], weight.scales[0], 0]", "integer", PACKING),
    Kernel("36", "codes beyond the last filter are not zero", "conv2d_ternary_blocked.c", "conv2d.ternary.openmp.blocked",
           "coded = contiguous(words(v, tiles(codes, v, v_in, most)))",
           "coded = contiguous(words(v, tiles(np.pad(codes, ((0, -len(codes) % v),) + ((0, 0),) * 3, constant_values=1), "
           "v, v_in, most)))", "lanes", PACKING),
    Kernel("37", "scale of the filter before", "conv2d_int8_direct.c", "conv2d.int8.*",
           "(float)acc * f->unit[k]", "(float)acc * f->unit[k > 0 ? k - 1 : 0]", "integer", f"{C}/rs_int8.h"),
    Kernel("38", "small weights dropped", "conv2d_csr_planar.c", "conv2d.csr.*",
           "rs_all(value[e + j])", "rs_all(value[e + j] * value[e + j] < 1e-6f ? 0 : value[e + j])", "bound"),
    # Activation, norm, pooling
    Kernel("39", "relu clears what is below 1", "conv2d_csr_direct.c", "conv2d.csr.*",
           "x = x < 0 ? 0 : x", "x = x < 1 ? 0 : x", "bound", f"{C}/rs.h"),
    Kernel("40", "another epsilon", "pointwise.c", "batchnorm.*",
           "np.float32(cast(BatchNorm, case.op).eps)", "np.float32(1e-3)", "bound", PACKING),
    Kernel("40b", "no square root", "pointwise.c", "batchnorm.*", "/ np.sqrt(node.var + ", "/ (node.var + ", "bound", PACKING),
    Kernel("41", "mean over the padding too", "avgpool.c", "avgpool.*",
           "include_pad ? a->r * a->s : inside", "a->r * a->s", "integer"),
    Kernel("42", "padding is 0 and may win", "maxpool.c", "maxpool.*", "if (h < 0 || h >= a->h) continue;",
           "if (h < 0 || h >= a->h) { if (first) memset(y, 0, sizeof(TYPE) * lanes), first = 0; continue; }", "integer"),
    Kernel("42b", "NaN does not win", "maxpool.c", "maxpool.*", "((x) > (best) || (x) != (x))", "((x) > (best))", "special"),
    Kernel("42c", "softmax not shifted", "pointwise.c", "softmax.*", "expf(x[i] - largest)", "expf(x[i])", "bound"),
    # Concurrency and state
    Kernel("43", "one sum for all threads", "avgpool.c", "globalavgpool.*",
           "int64_t pixels, const int64_t lanes) {\n    float sum[RS_V] = {0};\n    for (int64_t i = 0; i < pixels; i++)",
           "int64_t pixels, const int64_t lanes) {\n    static float sum[RS_V]; memset(sum, 0, sizeof sum);\n"
           "    for (volatile int wait = 0; wait < 20000; wait++);\n    for (int64_t i = 0; i < pixels; i++)", "threads"),
    Kernel("44", "a sum split between threads", "avgpool.c", "globalavgpool.*", """#pragma omp for schedule(static)
    for (int64_t i = 0; i < planes; i++) {
        if""", """    for (int64_t i = 0; a->x_block == 1 && i < planes; i++) {
#pragma omp single
        y[i] = 0;
        float part = 0;
#pragma omp for schedule(static)
        for (int64_t j = 0; j < pixels; j++) part += x[i * pixels + j];
#pragma omp atomic
        y[i] += part;
#pragma omp barrier
#pragma omp single
        y[i] /= (float)pixels;
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < (a->x_block == 1 ? 0 : planes); i++) {
        if""", "threads"),
    Kernel("45", "working memory kept from the call before", "linear_int8.c", "linear.int8.*",
           "    const rs_finish f =", "    static const void *kept; const int again = kept == a->scratch;\n"
           "#pragma omp barrier\n    kept = a->scratch;\n    if (again) return;\n    const rs_finish f =", "change"),
    Kernel("46", "answers remembered by the input's address", "movement.c", "flatten.*",
           "#pragma omp for schedule(static)\n    for (int64_t i = 0; i < pieces; i++)\n        memcpy((char *)a->y",
           "    static char answer[1 << 22]; static const void *question; const int known = question == a->x[0];\n"
           "#pragma omp for schedule(static)\n    for (int64_t i = 0; i < pieces; i++)\n"
           "        if (!known) memcpy(answer + i * PIECE, (const char *)a->x[0] + i * PIECE, rs_min(PIECE, bytes - i * PIECE));\n"
           "    question = a->x[0];\n#pragma omp for schedule(static)\n    for (int64_t i = 0; i < pieces; i++)\n"
           "        memcpy((char *)a->y + i * PIECE, answer + i * PIECE, rs_min(PIECE, bytes - i * PIECE));\n"
           "    for (int64_t i = 0; i < 0; i++)\n        memcpy((char *)a->y", "change"),
    Kernel("47", "no barrier behind the padded copy", "conv2d_dense_blocked.c", "conv2d.dense.*",
           "#pragma omp for schedule(static)\n    for (int64_t line",
           "#pragma omp for schedule(static) nowait\n    for (int64_t line", "poison", f"{C}/rs.h"),
    Kernel("48", "writes to its input", "pointwise.c", "relu.*",
           "i++) y[i] = rs_activate1(x[i], a->activation);",
           "i++) y[i] = rs_activate1(x[i], a->activation), ((float *)a->x[0])[i] = y[i];", "input"),
    Kernel("49", "reads its output", "pointwise.c", "add.*",
           "rs_activate1(x0[i] + x1[i], a->activation)", "rs_activate1(x0[i] + x1[i] + 0 * y[i], a->activation)", "poison"),
)

PYTHON = (
    Python("34", "columns named twice are accepted", "refstack/formats/csr.py",
           "np.diff(self.indices) > 0", "np.diff(self.indices) >= 0", ("tests/test_formats.py::test_corruption_is_refused",)),
    Python("45b", "one working memory for all callers", f"{C}/rs_blocked.h",
           "            rs_pad_rows(a, x, a->scratch, blocks, vin);\n            x = a->scratch;",
           "            static float kept[1 << 20];\n            rs_pad_rows(a, x, kept, blocks, vin);\n            x = kept;",
           ("tests/test_openmp.py::test_python_threads_do_not_meet",)),
    Python("50", "key of a compiled library lacks the flags", "refstack/backends/build.py",
           "facts = (ABI, self.flags, self.sources,", "facts = (ABI, self.sources,",
           ("tests/test_build.py::test_key_covers_what_matters",)),
    Python("50b", "key of a compiled library lacks the processor", "refstack/backends/build.py",
           "program, cpu_features(), platform", "program, platform", ("tests/test_build.py::test_key_covers_what_matters",)),
    Python("51", "packed weights not made contiguous", "refstack/planner.py",
           "array = np.ascontiguousarray(array)", "array = np.asarray(array)", ("tests/test_check_plan.py",)),
    Python("52", "shapes may be smaller than they must", "refstack/reference/conv.py",
           "if weight.shape != op", "if weight.shape < op", ("tests/test_reference.py::test_weight_that_does_not_fit",)),
    Python("53", "tensors may lie beyond the end of the file", "refstack/container.py",
           "if start != end:", "if start < end:", ("tests/test_checkpoint_hostile.py::test_bad_headers",)),
    Python("54", "errors up to twice the bound pass", "refstack/compare.py",
           "self.worst <= 1 and", "self.worst <= 2 and",
           ("tests/test_compare.py::test_both_sides_of_the_bound",)),
    Python("54b", "negative errors pass", "refstack/compare.py", "np.abs(y - r)", "(y - r)",
           ("tests/test_compare.py::test_both_sides_of_the_bound",)),
    Python("54c", "NaN passes", "refstack/compare.py",
           "ratio[np.isnan(ratio)] = np.inf", "ratio[np.isnan(ratio)] = 0",
           ("tests/test_compare.py::test_non_finite_output_of_finite_input",)),
    Python("54d", "one right layer will do", "refstack/compare.py",
           "all(layer.passed for layer", "any(layer.passed for layer", ("tests/test_check_plan.py",)),
    Python("55", "a fault that reference and NumPy kernels share", "refstack/reference/window.py",
           "::sh, ::sw, ::dh, ::dw", "::sh, ::sw, ::dw, ::dh", ("tests/test_reference.py::test_layer[conv2d-dense]",)),
)

SANITIZED = (
    Kernel("stack", "reads past an array on the stack", "conv2d_csr_direct.c", "linear.csr.*",
           "j < 4; j++) sum[j]", "j < 5; j++) sum[j]", "runtime error: .*(insufficient space|out of bounds)|stack-buffer"),
    Kernel("heap", "reads past the end of its heap", "pointwise.c", "softmax.*", "float largest = x[0], sum = 0;",
           "char *room = __builtin_malloc(a->c); volatile char last = room[a->c]; (void)last; __builtin_free(room);\n"
           "        float largest = x[0], sum = 0;", "heap-buffer-overflow"),
    Kernel("overflow", "overflows a signed number", "conv2d_int8_direct.c", "conv2d.int8.*",
           "int32_t acc = f.constant[k];", "int32_t acc = f.constant[k] + (2147483647 - f.constant[k]) - 100;",
           "signed integer overflow"),
    Kernel("shift", "shifts by too much", "conv2d_int8_direct.c", "conv2d.int8.*",
           "(int64_t)1 << f->shift[k] >> 1", "(int64_t)1 << (f->shift[k] + 64) >> 1", "shift exponent", f"{C}/rs_int8.h"),
)

NOT_YET = {
    "47 (OpenCL)": "barriers and global sizes of OpenCL kernels: there is no OpenCL backend",
    "Winograd, FFT": "there is no such kernel",
}
# fmt: on
