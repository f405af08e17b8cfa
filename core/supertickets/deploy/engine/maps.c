/* Operations that are not sums of taps: splitting into phases, enlarging, means. Rows of planes are `pitch` floats apart. They are
 * written from the first to the last, so whole vectors may extend past the end of a row; each map has space for this after its
 * last plane. */

static void FN(fill)(float *p, int64_t n) {
  int64_t i = 0;
  for (; i + VL <= n; i += VL) FN(store)(p + i, (vec){0});
  for (; i < n; i++) p[i] = 0;
}

static void FN(copy)(const float *in, float *out, int n) {
  int x = 0;
  for (; x + VL <= n; x += VL) FN(store)(out + x, FN(load)(in + x));
  for (; x < n; x++) out[x] = in[x];
}

/* (h, w) -> rows `first` to `end` of four phases of (h2, w2), `phase` apart: value (y, x) -> phase (y % 2, x % 2) at (y / 2, x / 2).
 * `clear`: nothing is read after the end of a row, and zeros are written there. */
static void FN(split)(const float *in, float *out, const int32_t *size, int first, int end) {
  int h = size[0], w = size[1], pitch = size[2], h2 = size[3], w2 = size[4], pitch2 = size[5], phase = size[6], clear = size[7];
  for (int a = 0; a < 2; a++)
    for (int y = first; y < end; y++) {
      float *even = out + 2 * a * phase + y * pitch2, *odd = even + phase;
      int x = 0, exact = clear || (end < h2 && w2 + VL > (end - y) * pitch2); /* what follows belongs to another part */
      if (2 * y + a < h) {
        const float *row = in + (int64_t)(2 * y + a) * pitch;
        for (; exact ? 2 * x + 2 * VL <= w : x < w2; x += VL) {
          vec l = FN(load)(row + 2 * x), r = FN(load)(row + 2 * x + VL);
          FN(store)(even + x, SHUFFLE(l, r, EVEN));
          FN(store)(odd + x, SHUFFLE(l, r, ODD));
        }
        for (; x < w2; x++) even[x] = row[2 * x], odd[x] = 2 * x + 1 < w ? row[2 * x + 1] : 0;
      }
      for (; x < pitch2; x++) even[x] = odd[x] = 0;
    }
}

/* The image (h, w) -> rows `y` to `end` of 16 phases with rows of `pitch`, `phase` apart, with zeros beyond the image: value
 * (y, x) -> phase (y % 4, x % 4) at (y / 4, x / 4). */
static void FN(split_image)(const float *in, float *out, int h, int w, int pitch, int phase, int y, int end) {
  for (; y < end; y++)
    for (int a = 0; a < 4; a++) {
      const float *row = in + (int64_t)(4 * y + a) * w;
      float *to = out + 4 * a * phase + y * pitch;
      int x = 0, width = 4 * y + a < h ? w : 0;
      for (; 4 * (x + VL) <= width; x += VL) {
        vec v0 = FN(load)(row + 4 * x), v1 = FN(load)(row + 4 * x + VL), v2 = FN(load)(row + 4 * x + 2 * VL);
        vec v3 = FN(load)(row + 4 * x + 3 * VL), even0 = SHUFFLE(v0, v1, EVEN), even1 = SHUFFLE(v2, v3, EVEN);
        vec odd0 = SHUFFLE(v0, v1, ODD), odd1 = SHUFFLE(v2, v3, ODD);
        FN(store)(to + x, SHUFFLE(even0, even1, EVEN)), FN(store)(to + phase + x, SHUFFLE(odd0, odd1, EVEN));
        FN(store)(to + 2 * phase + x, SHUFFLE(even0, even1, ODD)), FN(store)(to + 3 * phase + x, SHUFFLE(odd0, odd1, ODD));
      }
      for (; x < pitch; x++)
        for (int b = 0; b < 4; b++) to[b * phase + x] = 4 * x + b < width ? row[4 * x + b] : 0;
    }
}

/* Nearest resizing to twice the size, for the rows `y` to `end`; nothing is written after the last one. */
static void FN(up2)(const float *in, float *out, int w, int pitch, int pitch2, int y, int end) {
  for (; y < end; y++) {
    int x = 0, exact = 2 * (w + VL) > (end - y) * pitch2;
    for (; exact ? x + VL <= w : x < w; x += VL) {
      vec v = FN(load)(in + y / 2 * pitch + x);
      FN(store)(out + y * pitch2 + 2 * x, SHUFFLE(v, v, LOW));
      FN(store)(out + y * pitch2 + 2 * x + VL, SHUFFLE(v, v, HIGH));
    }
    for (; x < w; x++) out[y * pitch2 + 2 * x] = out[y * pitch2 + 2 * x + 1] = in[y / 2 * pitch + x];
  }
}

/* The sum of two rows of w values, with the weights 1 - `high` and `high`, resized bilinearly to 2w or 4w values. */
static void FN(widen)(const float *r0, const float *r1, float high, float *out, int w, int times) {
  vec b1 = FN(splat)(high), b0 = FN(splat)(1 - high), m = FN(fma)(FN(load)(r1), b1, FN(load)(r0) * b0), before = FN(splat)(m[0]);
  for (int x = 0; x < w; x += VL) {
    vec after = m, l = SHUFFLE(before, m, BEFORE), r;
    if (x + VL < w) after = FN(fma)(FN(load)(r1 + x + VL), b1, FN(load)(r0 + x + VL) * b0);
    r = SHUFFLE(m, after, AFTER);
    if (x + VL >= w) { /* the last value is its own neighbour */
      FN(lanes) last = (FN(lanes)){LANES} == (w - 1 - x) - (FN(lanes)){0};
      r = (vec)(((FN(lanes))m & last) | ((FN(lanes))r & ~last));
    }
    if (times == 2) {
      vec a = m * 0.75f + l * 0.25f, b = m * 0.75f + r * 0.25f;
      FN(store)(out + 2 * x, SHUFFLE(a, b, LOW)), FN(store)(out + 2 * x + VL, SHUFFLE(a, b, HIGH));
    } else {
      vec a = m * 0.625f + l * 0.375f, b = m * 0.875f + l * 0.125f, c = m * 0.875f + r * 0.125f, d = m * 0.625f + r * 0.375f;
      vec ac = SHUFFLE(a, c, LOW), bd = SHUFFLE(b, d, LOW);
      FN(store)(out + 4 * x, SHUFFLE(ac, bd, LOW)), FN(store)(out + 4 * x + VL, SHUFFLE(ac, bd, HIGH));
      if (x + VL / 2 >= w) break;
      ac = SHUFFLE(a, c, HIGH), bd = SHUFFLE(b, d, HIGH);
      FN(store)(out + 4 * x + 2 * VL, SHUFFLE(ac, bd, LOW)), FN(store)(out + 4 * x + 3 * VL, SHUFFLE(ac, bd, HIGH));
    }
    before = m, m = after;
  }
}

/* Resizes a plane, rows `y` to `end`, with tables of two source lines, at most one apart, and the weight of the second one. Nothing
 * is written after the last row; `space` holds a row of the new width, and two without `times`: then a source row is resized when
 * it is first needed.
 * size: h, w, pitch, h2, w2, pitch2, -, times (as wide; 0: by table), then where the tables begin: rows, columns. */
static void FN(resize)(const float *in, float *out, const int32_t *size, float *space, int y, int end) {
  int pitch = size[2], w2 = size[4], pitch2 = size[5], times = size[7], held[2] = {-1, -1};
  const int32_t *rows = INTS + size[8], *columns = INTS + size[10];
  const float *up = FLOATS + size[9], *across = FLOATS + size[11];
  float *wide[2] = {space, space + (w2 + 79) / 16 * 16};
  for (out += (int64_t)y * pitch2; y < end; y++, out += pitch2) {
    if (times) {
      int exact = w2 + 4 * VL > (end - y) * pitch2;
      FN(widen)(in + (int64_t)rows[2 * y] * pitch, in + (int64_t)rows[2 * y + 1] * pitch, up[y], exact ? space : out, size[1], times);
      if (exact) FN(copy)(space, out, w2);
      continue;
    }
    for (int i = 2 * y; i < 2 * y + 2; i++) {
      const float *row = in + (int64_t)rows[i] * pitch;
      float *to = wide[rows[i] & 1];
      if (held[rows[i] & 1] == rows[i]) continue;
      held[rows[i] & 1] = rows[i];
      for (int x = 0; x < w2; x++) to[x] = row[columns[2 * x]] * (1 - across[x]) + row[columns[2 * x + 1]] * across[x];
    }
    const float *r0 = wide[rows[2 * y] & 1], *r1 = wide[rows[2 * y + 1] & 1];
    vec low = FN(splat)(1 - up[y]), high = FN(splat)(up[y]), v;
    int x = 0, exact = w2 + VL > (end - y) * pitch2;
    for (; exact ? x + VL <= w2 : x < w2; x += VL) FN(store)(out + x, FN(fma)(FN(load)(r1 + x), high, FN(load)(r0 + x) * low));
    if (x >= w2) continue;
    v = FN(fma)(FN(load)(r1 + x), high, FN(load)(r0 + x) * low);
    for (int i = 0; x < w2; i++, x++) out[x] = v[i];
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

/* The largest value of each window, or the mean over its values within the map (kind 1) or over all of its positions (kind 2).
 * size: h, w, pitch, h2, w2, pitch2, kernel, stride, pad, kind. */
static void FN(pool)(const float *in, float *out, const int32_t *size) {
  int h = size[0], w = size[1], pitch = size[2], kernel = size[6], stride = size[7], pad = size[8], kind = size[9];
  for (int y = 0; y < size[3]; y++)
    for (int x = 0; x < size[4]; x++) {
      int top = y * stride - pad, left = x * stride - pad, bottom = top + kernel, right = left + kernel;
      int places = ((bottom < h + pad ? bottom : h + pad) - top) * ((right < w + pad ? right : w + pad) - left);
      if (top < 0) top = 0;
      if (left < 0) left = 0;
      if (bottom > h) bottom = h;
      if (right > w) right = w;
      float most = in[top * pitch + left], sum = 0;
      for (int i = top; i < bottom; i++)
        for (int j = left; j < right; j++) {
          float value = in[i * pitch + j];
          sum += value;
          most = value > most ? value : most;
        }
      if (kind == 1) places = (bottom - top) * (right - left);
      out[y * size[5] + x] = kind ? sum / (float)places : most;
    }
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
