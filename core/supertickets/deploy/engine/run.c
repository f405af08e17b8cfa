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

/* The same in each phase of a plane that had (h, w) before it was split: size is h, w, pitch, phases, phase. */
static void FN(all_pads)(float *plane, const int32_t *size, int positions) {
  if (size[3] == 1) {
    FN(pads)(plane, size[0], size[1], size[2], positions);
    return;
  }
  for (int f = 0; f < 4; f++)
    FN(pads)(plane + f * size[4], (size[0] - f / 2 + 1) / 2, (size[1] - f % 2 + 1) / 2, size[2], positions);
}

/* Zeros before, between and behind the phases of a plane. */
static void FN(halos)(float *plane, int halo, int phase, int phases, int positions) {
  FN(fill)(plane, halo);
  for (int f = 0; f < phases; f++)
    FN(fill)(plane + halo + f * phase + positions, phase - positions);
}

static void FN(run)(const float *image, float *output, float *arena) {
  for (const Op *op = OPS; op < OPS + OP_COUNT; op++) {
    const int32_t *a = op->a;
    switch (op->kind) {
      case ROWS: /* first row, rows, positions, act, segments, step */
        for (int s = 0; s < a[4]; s++) FN(run_rows)(arena + (int64_t)s * a[5], ROW_TABLE + a[0], a[1], a[2] / VL, a[3]);
        break;
      case PLANES: /* first row, rows, positions, act; then of the planes read: start, plane, h, w, pitch, phases, phase */
        FN(all_pads)(arena + a[4], a + 6, a[2]);
        for (int r = 0; r < a[1]; r++) { /* the next plane's: a vector waits for a smaller store that it reaches over */
          if (r + 1 < a[1]) FN(all_pads)(arena + a[4] + (int64_t)(r + 1) * a[5], a + 6, a[2]);
          FN(run_rows)(arena, ROW_TABLE + a[0] + r, 1, a[2] / VL, a[3]);
        }
        break;
      case PADS: /* start, planes, plane, h, w, pitch, positions */
        for (int c = 0; c < a[1]; c++) FN(pads)(arena + a[0] + (int64_t)c * a[2], a[3], a[4], a[5], a[6]);
        break;
      case HALOS: /* start, planes, plane, halo, phase, phases, positions */
        for (int c = 0; c < a[1]; c++) FN(halos)(arena + a[0] + (int64_t)c * a[2], a[3], a[4], a[5], a[6]);
        break;
      case COPY: /* out, plane, channels, h, w, pitch: the image as it is */
        for (int c = 0; c < a[2]; c++)
          for (int y = 0; y < a[3]; y++)
            FN(copy)(image + ((int64_t)c * a[3] + y) * a[4], arena + a[0] + (int64_t)c * a[1] + y * a[5], a[4]);
        break;
      case SPLIT: /* in (-1: the image), its plane, out, plane, channels, h, w, pitch, h2, w2, pitch2, phase, exact */
        for (int c = 0; c < a[4]; c++)
          FN(split)((a[0] < 0 ? image : arena + a[0]) + (int64_t)c * a[1], arena + a[2] + (int64_t)c * a[3], a[5], a[6], a[7],
                    a[8], a[9], a[10], a[11], a[12]);
        break;
      case UP2: /* in, plane, out, plane, channels, h, w, pitch, pitch2 */
        for (int c = 0; c < a[4]; c++)
          FN(up2)(arena + a[0] + (int64_t)c * a[1], arena + a[2] + (int64_t)c * a[3], a[5], a[6], a[7], a[8]);
        break;
      case RESIZE: /* in, plane, out, plane, channels, h, w, pitch, h2, w2, pitch2, space, times, four tables (first numbers) */
        for (int c = 0; c < a[4]; c++)
          FN(resize)(arena + a[0] + (int64_t)c * a[1], arena + a[2] + (int64_t)c * a[3], a + 5, arena + a[11]);
        break;
      case MEAN: /* in, plane, out, channels, h, w, pitch */
        for (int c = 0; c < a[3]; c++) arena[a[2] + c] = FN(mean)(arena + a[0] + (int64_t)c * a[1], a[4], a[5], a[6]);
        break;
      case LINEAR: /* in, weights, biases, inputs, outputs */
        for (int o = 0; o < a[4]; o++)
          output[o] = FLOATS[a[2] + o] + FN(dot)(arena + a[0], FLOATS + a[1] + (int64_t)o * a[3], a[3]);
        break;
      case OUTPUT: /* in, plane, channels, h, w, pitch */
        for (int c = 0; c < a[2]; c++)
          for (int y = 0; y < a[3]; y++)
            FN(copy)(arena + a[0] + (int64_t)c * a[1] + y * a[5], output + ((int64_t)c * a[3] + y) * a[4], a[4]);
        break;
    }
  }
}
