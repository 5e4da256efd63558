/* How a weight is stored: in float32, or with HALF = 1 in float16; arithmetic is in float32. */
#undef WEIGHT
#undef LOAD
#if HALF
#define WEIGHT half
#define LOAD(w, i) vload_half(i, w)
#else
#define WEIGHT float
#define LOAD(w, i) (w)[i]
#endif
