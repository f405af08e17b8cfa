/* What is no sum of taps: splits in phases, enlarging, means. Planes have rows `pitch` floats apart; what lies behind a row's
 * last value is written, too (zeros, or values that nobody reads). */

/* (h, w) -> four phases of (h2, w2), `phase` apart: value (y, x) -> phase (y % 2, x % 2) at (y / 2, x / 2) */
static void FN(split)(const float *in, float *out, int h, int w, int pitch, int h2, int w2, int pitch2, int phase) {
  for (int a = 0; a < 2; a++)
    for (int y = 0; y < h2; y++) {
      float *even = out + 2 * a * phase + y * pitch2, *odd = even + phase;
      int x = 0;
      if (2 * y + a < h) {
        const float *row = in + (int64_t)(2 * y + a) * pitch;
        for (; 2 * x + 2 * VL <= w; x += VL) {
          vec l = FN(load)(row + 2 * x), r = FN(load)(row + 2 * x + VL);
          FN(store)(even + x, SHUFFLE(l, r, EVEN));
          FN(store)(odd + x, SHUFFLE(l, r, ODD));
        }
        for (; x < w2; x++) even[x] = row[2 * x], odd[x] = 2 * x + 1 < w ? row[2 * x + 1] : 0;
      }
      for (; x < pitch2; x++) even[x] = odd[x] = 0;
    }
}

/* nearest, to twice the size */
static void FN(up2)(const float *in, float *out, int h, int w, int pitch, int pitch2) {
  for (int y = 0; y < h; y++) {
    const float *row = in + y * pitch;
    float *o = out + 2 * y * pitch2;
    int x = 0;
    for (; x + VL <= w; x += VL) {
      vec v = FN(load)(row + x), l = SHUFFLE(v, v, LOW), r = SHUFFLE(v, v, HIGH);
      FN(store)(o + 2 * x, l), FN(store)(o + 2 * x + VL, r);
      FN(store)(o + pitch2 + 2 * x, l), FN(store)(o + pitch2 + 2 * x + VL, r);
    }
    for (; x < w; x++) o[2 * x] = o[2 * x + 1] = o[pitch2 + 2 * x] = o[pitch2 + 2 * x + 1] = row[x];
    for (x = 2 * w; x < pitch2; x++) o[x] = o[pitch2 + x] = 0;
  }
}

/* Write `count` of the floats that two vectors hold in turns: a0 b0 a1 b1 ... */
ALWAYS void FN(weave)(float *out, vec a, vec b, int count) {
  if (count >= 2 * VL) {
    FN(store)(out, SHUFFLE(a, b, LOW)), FN(store)(out + VL, SHUFFLE(a, b, HIGH));
    return;
  }
  float both[2 * VL];
  FN(store)(both, SHUFFLE(a, b, LOW)), FN(store)(both + VL, SHUFFLE(a, b, HIGH));
  for (int i = 0; i < count; i++) out[i] = both[i];
}

/* One line of w values, bilinearly to 2w or 4w; line[-1] and line[w] repeat the ends. */
static void FN(widen)(const float *line, float *out, int w, int times) {
  for (int x = 0; x < w; x += VL) {
    int left = times * (w - x);
    vec l = FN(load)(line + x - 1), m = FN(load)(line + x), r = FN(load)(line + x + 1);
    if (times == 2) {
      FN(weave)(out + 2 * x, m * 0.75f + l * 0.25f, m * 0.75f + r * 0.25f, left);
      continue;
    }
    vec a = m * 0.625f + l * 0.375f, b = m * 0.875f + l * 0.125f, c = m * 0.875f + r * 0.125f, d = m * 0.625f + r * 0.375f;
    FN(weave)(out + 4 * x, SHUFFLE(a, c, LOW), SHUFFLE(b, d, LOW), left);
    if (left > 2 * VL) FN(weave)(out + 4 * x + 2 * VL, SHUFFLE(a, c, HIGH), SHUFFLE(b, d, HIGH), left - 2 * VL);
  }
}

/* One plane, bilinearly by tables of two sources and the second one's weight: of rows, then of columns (or `times` as wide). */
static void FN(resize)(const float *in, float *out, int w, int pitch, int h2, int w2, int pitch2, float *space, int times,
                       const int32_t *rows, const float *up, const int32_t *columns, const float *across) {
  float *line = space + VL;
  for (int y = 0; y < h2; y++, out += pitch2) {
    const float *r0 = in + rows[2 * y] * pitch, *r1 = in + rows[2 * y + 1] * pitch;
    for (int x = 0; x < w; x += VL) FN(store)(line + x, FN(load)(r0 + x) * (1 - up[y]) + FN(load)(r1 + x) * up[y]);
    if (times) {
      line[-1] = line[0], line[w] = line[w - 1];
      FN(widen)(line, out, w, times);
    } else {
      for (int x = 0; x < w2; x++)
        out[x] = line[columns[2 * x]] * (1 - across[x]) + line[columns[2 * x + 1]] * across[x];
    }
    for (int x = w2; x < pitch2; x++) out[x] = 0;
  }
}

static float FN(mean)(const float *in, int h, int w, int pitch) {
  vec sum = {0};
  float total = 0;
  for (int y = 0; y < h; y++) {
    const float *row = in + y * pitch;
    int x = 0;
    for (; x + VL <= w; x += VL) sum += FN(load)(row + x);
    for (; x < w; x++) total += row[x];
  }
  for (int i = 0; i < VL; i++) total += sum[i];
  return total / ((float)h * (float)w);
}

static float FN(dot)(const float *a, const float *b, int n) {
  vec even = {0}, odd = {0};
  int i = 0;
  for (; i + 2 * VL <= n; i += 2 * VL) {
    even = FN(fma)(FN(load)(a + i), FN(load)(b + i), even);
    odd = FN(fma)(FN(load)(a + i + VL), FN(load)(b + i + VL), odd);
  }
  float total = 0;
  for (; i < n; i++) total += a[i] * b[i];
  even += odd;
  for (int k = 0; k < VL; k++) total += even[k];
  return total;
}
