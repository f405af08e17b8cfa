/* Vectors of VL floats and the row kernel. This part of the file is repeated for each instruction set; FN() adds its name. */
typedef float FN(vec) __attribute__((vector_size(VL * 4)));
typedef float FN(loose) __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef int32_t FN(lanes) __attribute__((vector_size(VL * 4)));
#define vec FN(vec)

ALWAYS vec FN(load)(const float *p) { return *(const FN(loose) *)p; }
ALWAYS void FN(store)(float *p, vec v) { *(FN(loose) *)p = v; }
ALWAYS vec FN(splat)(float x) { return x - (vec){0}; }
#if VL == 16
ALWAYS vec FN(relu)(vec v) { return (vec)_mm512_max_ps((__m512)v, _mm512_setzero_ps()); }
ALWAYS vec FN(fma)(vec a, vec b, vec c) { return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#elif VL == 8
ALWAYS vec FN(relu)(vec v) { return (vec)_mm256_max_ps((__m256)v, _mm256_setzero_ps()); }
ALWAYS vec FN(fma)(vec a, vec b, vec c) { return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#elif defined(__ARM_NEON)
ALWAYS vec FN(relu)(vec v) { return (vec)vmaxq_f32((float32x4_t)v, vdupq_n_f32(0)); }
ALWAYS vec FN(fma)(vec a, vec b, vec c) { return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
ALWAYS vec FN(relu)(vec v) { return (vec)((FN(lanes))v & (v > (vec){0})); }
ALWAYS vec FN(fma)(vec a, vec b, vec c) { return a * b + c; }
#endif

/* Masks the vector `i` of a row with a table that has one bit for each float, or all bits of each float. */
#if VL == 16
typedef uint16_t FN(mask);
static const FN(mask) *FN(mask_at)(int place) { return MASK_BITS + place / 16; }
ALWAYS vec FN(keep)(vec v, const FN(mask) *mask, int i) { return (vec)_mm512_maskz_mov_ps(mask[i], (__m512)v); }
#else
typedef int32_t FN(mask);
static const FN(mask) *FN(mask_at)(int place) { return MASKS + place; }
ALWAYS vec FN(keep)(vec v, const FN(mask) *mask, int i) {
  return (vec)((FN(lanes))v & (FN(lanes))FN(load)((const float *)mask + i * VL));
}
#endif

ALWAYS vec FN(least)(vec a, vec b) {
#if VL == 16
  return (vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif VL == 8
  return (vec)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__ARM_NEON)
  return (vec)vminq_f32((float32x4_t)a, (float32x4_t)b);
#else
  FN(lanes) first = a < b;
  return (vec)(((FN(lanes))a & first) | ((FN(lanes))b & ~first));
#endif
}

ALWAYS vec FN(relu6)(vec v) { return FN(least)(FN(relu)(v), FN(splat)(6)); }

/* 1 / (1 + e^-v): 2^n e^r with a whole n and |r| <= ln 2 / 2; e^r by its series, with a relative error of 5e-9. */
ALWAYS vec FN(sigmoid)(vec v) {
  vec x = FN(splat)(80) - FN(least)(FN(relu)(FN(splat)(80) + v), FN(splat)(160)); /* -v, within +-80 */
  vec turned = FN(fma)(x, FN(splat)(1.44269504f), FN(splat)(12582912)), n = turned - 12582912;
  vec r = FN(fma)(n, FN(splat)(2.12194440e-4f), FN(fma)(n, FN(splat)(-0.693359375f), x));
  vec e = FN(splat)(1.f / 5040);
  e = FN(fma)(e, r, FN(splat)(1.f / 720));
  e = FN(fma)(e, r, FN(splat)(1.f / 120)), e = FN(fma)(e, r, FN(splat)(1.f / 24)), e = FN(fma)(e, r, FN(splat)(1.f / 6));
  e = FN(fma)(e, r, FN(splat)(0.5f)), e = FN(fma)(e, r, FN(splat)(1)), e = FN(fma)(e, r, FN(splat)(1));
  e = (vec)((FN(lanes))e + (((FN(lanes))turned - 0x4b400000) << 23));
  return 1 / (1 + e);
}

/* The activation after a sum. ACTS, the set of activations that are used, is a constant: no code is generated for the others. */
ALWAYS vec FN(act)(vec v, int act) {
  if (ACTS & act & RELU) v = FN(relu)(v);
  if (ACTS & act & RELU6) v = FN(relu6)(v);
  if (ACTS & act & HARD_SWISH) v = v * FN(relu6)(v + 3) * (1.f / 6);
  if (ACTS & act & HARD_SIGMOID) v = FN(relu6)(v + 3) * (1.f / 6);
  if (ACTS & act & SWISH) v = v * FN(sigmoid)(v);
  if (ACTS & act & SIGMOID) v = FN(sigmoid)(v);
  return v;
}

ALWAYS void FN(tap)(vec *sum, const float *in, const Tap *tap, const int count) {
  const float *x = in + tap->offset;
  HIDE(x);
  vec w = FN(splat)(tap->weight);
  UNROLL for (int v = 0; v < count; v++) sum[v] = FN(fma)(w, FN(load)(x + v * VL), sum[v]);
}

/* One row over `count` vectors; count is a constant wherever this is inlined, so that all sums stay in registers.
 * With a `mask`, only the values that it keeps are written, otherwise zeros. Taps that are not shared read `own`; if that is 0,
 * all taps read `in`. */
ALWAYS void FN(row)(
    const float *in, const float *own, float *out, const Row *row, int act, const FN(mask) *mask, const int count) {
  vec sum[MOST], start = FN(splat)(row->bias);
  const Tap *tap = TAPS + row->first;
  int taps = row->taps, shared = own ? row->shared : taps;
  HIDE(out);
  if (act & ADD) {
    UNROLL for (int v = 0; v < count; v++) sum[v] = start + FN(load)(out + v * VL);
  } else {
    UNROLL for (int v = 0; v < count; v++) sum[v] = start;
  }
  for (int i = 0; i < shared; i++) FN(tap)(sum, in, tap + i, count);
  if (own)
    for (int i = shared; i < taps; i++) FN(tap)(sum, own, tap + i, count);
  UNROLL for (int v = 0; v < count; v++) sum[v] = FN(act)(sum[v], act);
  if (mask) {
    HIDE(mask);
    UNROLL for (int v = 0; v < count; v++) sum[v] = FN(keep)(sum[v], mask, v);
  }
  UNROLL for (int v = 0; v < count; v++) FN(store)(out + v * VL, sum[v]);
}

#define TILE(COUNT)                                                                                    \
  case COUNT:                                                                                          \
    for (int r = 0; r < rows; r++) FN(row)(in, OWN_TAPS, out + row[r].out, row + r, act, mask, COUNT); \
    break;
#if MOST == 16
#define TILES_BEYOND_8 TILE(9) TILE(10) TILE(11) TILE(12) TILE(13) TILE(14) TILE(15) TILE(16)
#else
#define TILES_BEYOND_8 TILE(9) TILE(10) TILE(11) TILE(12)
#endif
#define TILES TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8) TILES_BEYOND_8

/* `rows` rows over the same `count` vectors, and a variant in which taps also read `own`. */
#define OWN_TAPS 0
static __attribute__((noinline)) void FN(tile)(
    const float *in, float *out, const Row *row, int rows, int act, const FN(mask) *mask, int count) {
  switch (count) { TILES }
}
#undef OWN_TAPS
#define OWN_TAPS own
static __attribute__((noinline)) void FN(tile_of_both)(
    const float *in, const float *own, float *out, const Row *row, int rows, int act, const FN(mask) *mask, int count) {
  switch (count) { TILES }
}

/* Rows over the vectors `first` to `end` of their planes, in tiles of similar size; `mask` is the position of the planes' mask, or
 * -1. The values of a tile that the last row, which has the most taps, reads should stay in the first-level cache for the next
 * row. */
static void FN(run_rows)(
    const float *in, const float *own, float *out, const Row *row, int rows, int first, int end, int act, int mask) {
  int most = rows == 1 ? MOST : CACHED / (VL * (row[rows - 1].taps + 1));
  most = most < 4 ? 4 : most > MOST ? MOST : most;
  for (int tiles = (end - first + most - 1) / most; first < end; tiles--) {
    int count = (end - first + tiles - 1) / tiles, at = first * VL;
    const FN(mask) *kept = mask < 0 ? 0 : FN(mask_at)(mask + at);
    if (own == in)
      FN(tile)(in + at, out + at, row, rows, act, kept, count);
    else
      FN(tile_of_both)(in + at, own + at, out + at, row, rows, act, kept, count);
    first += count;
  }
}

/* One row over the vectors `v` to `end` of its plane. `taps` is a constant wherever this is inlined, so weights and
 * addresses stay in registers. */
ALWAYS void FN(plane)(const float *in, float *out, const Row *row, int v, int end, int act, const int taps) {
  const float *x[12];
  vec w[12], bias = FN(splat)(row->bias);
  out += row->out;
  const Tap *tap = TAPS + row->first;
  UNROLL for (int i = 0; i < taps; i++) x[i] = in + tap[i].offset, w[i] = FN(splat)(tap[i].weight);
  for (; v + 4 <= end; v += 4) {
    vec sum[4] = {bias, bias, bias, bias};
    UNROLL for (int i = 0; i < taps; i++)
      UNROLL for (int j = 0; j < 4; j++) sum[j] = FN(fma)(w[i], FN(load)(x[i] + (v + j) * VL), sum[j]);
    UNROLL for (int j = 0; j < 4; j++) FN(store)(out + (v + j) * VL, FN(act)(sum[j], act));
  }
  for (; v < end; v++) {
    vec sum = bias;
    UNROLL for (int i = 0; i < taps; i++) sum = FN(fma)(w[i], FN(load)(x[i] + v * VL), sum);
    FN(store)(out + v * VL, FN(act)(sum, act));
  }
}

#define PLANES_OF(COUNT)                                       \
  case COUNT:                                                  \
    do FN(plane)(in, out, row++, first, end, act, COUNT);      \
    while (row < last && row->taps == COUNT);                  \
    break;

/* Rows one after the other, each over the vectors `first` to `end` of its plane. */
static void FN(run_planes)(const float *in, float *out, const Row *row, int rows, int first, int end, int act) {
  const Row *last = row + rows;
  while (row < last && first < end) switch (row->taps) {
      PLANES_OF(1) PLANES_OF(2) PLANES_OF(3) PLANES_OF(4) PLANES_OF(5) PLANES_OF(6)
      PLANES_OF(7) PLANES_OF(8) PLANES_OF(9) PLANES_OF(10) PLANES_OF(11) PLANES_OF(12)
      default: FN(run_rows)(in, in, out, row++, 1, first, end, act, -1);
    }
}
