/* The columns behind each of h rows, and what lies behind the last row. */
static void FN(pads)(float *plane, int h, int w, int pitch, int positions) {
  int pad = pitch - w;
  float *end = plane + w;
  if (pad == 2)
    for (int y = 0; y < h; y++, end += pitch) end[0] = end[1] = 0;
  else if (pad == 3)
    for (int y = 0; y < h; y++, end += pitch) end[0] = end[1] = end[2] = 0;
  else
    for (int y = 0; y < h; y++, end += pitch)
      for (int x = 0; x < pad; x++) end[x] = 0;
  for (int p = h * pitch; p < positions; p++) plane[p] = 0;
}

/* Zeros before, between and behind the phases of a plane. */
static void FN(halos)(float *plane, int halo, int phase, int phases, int positions) {
  FN(fill)(plane, halo);
  for (int f = 0; f < phases; f++)
    FN(fill)(plane + halo + f * phase + positions, phase - positions);
}

/* One operation's share of `part` of `parts`. Where vectors reach over a plane's end or share memory, the first part does all. */
static void FN(run_op)(const Op *op, const float *image, float *output, float *arena, int part, int parts) {
  const int32_t *a = op->a;
  switch (op->kind) {
    case ROWS: /* first row, rows, positions, act, phases, phase, where the phases' masks begin (-1: none) */
      for (int f = 0; f < a[4]; f++)
        FN(run_rows)(arena + (int64_t)f * a[5], ROW_TABLE + a[0], a[1], a[2] / VL, a[3], a[6] < 0 ? 0 : INTS + a[6] + f * a[2],
                     part, parts);
      break;
    case PLANES: /* first row, rows, positions, act */
      FN(run_planes)(arena, ROW_TABLE + a[0], a[1], a[2] / VL, a[3], part, parts);
      break;
    case PADS: /* start, planes, plane, h, w, pitch, positions */
      for (int c = part; c < a[1]; c += parts) FN(pads)(arena + a[0] + (int64_t)c * a[2], a[3], a[4], a[5], a[6]);
      break;
    case HALOS: /* start, planes, plane, halo, phase, phases, positions */
      for (int c = part; c < a[1]; c += parts) FN(halos)(arena + a[0] + (int64_t)c * a[2], a[3], a[4], a[5], a[6]);
      break;
    case COPY: /* out, plane, channels, h, w, pitch: the image as it is */
      for (int c = part; c < a[2]; c += parts)
        for (int y = 0; y < a[3]; y++)
          FN(copy)(image + ((int64_t)c * a[3] + y) * a[4], arena + a[0] + (int64_t)c * a[1] + y * a[5], a[4]);
      break;
    case SPLIT: /* in (-1: the image), its plane, out, plane, channels, h, w, pitch, h2, w2, pitch2, phase, exact */
      for (int c = part; c < a[4]; c += parts)
        FN(split)((a[0] < 0 ? image : arena + a[0]) + (int64_t)c * a[1], arena + a[2] + (int64_t)c * a[3], a[5], a[6], a[7],
                  a[8], a[9], a[10], a[11], a[12]);
      break;
    case UP2: /* in, plane, out, plane, channels, h, w, pitch, pitch2 */
      for (int c = 0; part == 0 && c < a[4]; c++)
        FN(up2)(arena + a[0] + (int64_t)c * a[1], arena + a[2] + (int64_t)c * a[3], a[5], a[6], a[7], a[8]);
      break;
    case RESIZE: /* in, plane, out, plane, channels, h, w, pitch, h2, w2, pitch2, space, times, four tables (first numbers) */
      for (int c = 0; part == 0 && c < a[4]; c++)
        FN(resize)(arena + a[0] + (int64_t)c * a[1], arena + a[2] + (int64_t)c * a[3], a + 5, arena + a[11]);
      break;
    case MEAN: /* in, plane, out, how far apart (1, or room for vectors, which are filled), channels, h, w, pitch */
      for (int c = part; c < a[4]; c += parts) {
        float mean = FN(mean)(arena + a[0] + (int64_t)c * a[1], a[5], a[6], a[7]), *out = arena + a[2] + (int64_t)c * a[3];
        *out = mean;
        if (a[3] > 1)
          for (int i = 0; i < 16; i += VL) FN(store)(out + i, FN(splat)(mean));
      }
      break;
    case LINEAR: /* in, weights, biases, inputs, outputs */
      for (int o = part; o < a[4]; o += parts)
        output[o] = FLOATS[a[2] + o] + FN(dot)(arena + a[0], FLOATS + a[1] + (int64_t)o * a[3], a[3]);
      break;
    case MULTIPLY: /* in, plane, factors, how far apart, out, plane, channels, positions */
      for (int c = part; c < a[6]; c += parts) {
        const float *in = arena + a[0] + (int64_t)c * a[1];
        float *out = arena + a[4] + (int64_t)c * a[5];
        vec factor = FN(splat)(arena[a[2] + (int64_t)c * a[3]]);
        for (int p = 0; p < a[7]; p += VL) FN(store)(out + p, factor * FN(load)(in + p));
      }
      break;
    case POOL: /* in, plane, out, plane, channels, h, w, pitch, h2, w2, pitch2, kernel, stride, pad, kind */
      for (int c = part; c < a[4]; c += parts) FN(pool)(arena + a[0] + (int64_t)c * a[1], arena + a[2] + (int64_t)c * a[3], a + 5);
      break;
    case OUTPUT: /* in, plane, channels, h, w, pitch */
      for (int c = part; c < a[2]; c += parts)
        for (int y = 0; y < a[3]; y++)
          FN(copy)(arena + a[0] + (int64_t)c * a[1] + y * a[5], output + ((int64_t)c * a[3] + y) * a[4], a[4]);
      break;
  }
}

/* All operations; after each one all parts wait for each other. */
static void FN(run)(const float *image, float *output, char *memory, int part, int parts, void (*wait)(void)) {
  uint32_t *arrived = (uint32_t *)memory;
  for (int i = 0; i < OP_COUNT; i++) {
    FN(run_op)(OPS + i, image, output, (float *)(memory + 64), part, parts);
    if (parts > 1) meet(arrived, (uint32_t)(i + 1) * (uint32_t)parts, wait);
  }
  if (parts > 1) leave(arrived, (uint32_t)(OP_COUNT + 1) * (uint32_t)parts);
}
