/* Vectors of VL floats and the row kernel. This part of the file stands here once for each instruction set; FN() adds its name. */
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

/* One row over `count` vectors; count is a constant wherever this is inlined, so that all sums stay in registers. */
ALWAYS void FN(row)(float *out, const float *in, const Tap *tap, int taps, float bias, int act, const int count) {
  vec sum[MOST], start = FN(splat)(bias);
  HIDE(out);
  if (act & ADD) {
    UNROLL for (int v = 0; v < count; v++) sum[v] = start + FN(load)(out + v * VL);
  } else {
    UNROLL for (int v = 0; v < count; v++) sum[v] = start;
  }
  for (int i = 0; i < taps; i++) {
    const float *x = in + tap[i].offset;
    HIDE(x);
    vec w = FN(splat)(tap[i].weight);
    UNROLL for (int v = 0; v < count; v++) sum[v] = FN(fma)(w, FN(load)(x + v * VL), sum[v]);
  }
  if (act & RELU) {
    UNROLL for (int v = 0; v < count; v++) sum[v] = FN(relu)(sum[v]);
  }
  UNROLL for (int v = 0; v < count; v++) FN(store)(out + v * VL, sum[v]);
}

#define TILE(COUNT)                                                                                         \
  case COUNT:                                                                                               \
    for (int r = 0; r < rows; r++)                                                                          \
      FN(row)(at + row[r].out, at, TAPS + row[r].first, row[r].taps, row[r].bias, act, COUNT);              \
    break;

/* `rows` rows over the same `count` vectors from `at` on */
static __attribute__((noinline)) void FN(tile)(float *at, const Row *row, int rows, int act, int count) {
  switch (count) {
    TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8)
#if MOST >= 12
    TILE(9) TILE(10) TILE(11) TILE(12)
#endif
#if MOST >= 16
    TILE(13) TILE(14) TILE(15) TILE(16)
#endif
  }
}

/* Rows over `vectors` vectors, in tiles of about one size. */
static void FN(run_rows)(float *arena, const Row *row, int rows, int vectors, int act) {
  int tiles = (vectors + MOST - 1) / MOST, count = vectors / tiles, larger = vectors % tiles;
  for (int t = 0; t < tiles; t++) {
    int here = count + (t < larger);
    FN(tile)(arena, row, rows, act, here);
    arena += here * VL;
  }
}
