/* The first row of `pitch` floats that a part runs: the first one that begins in its share of the map's positions. */
static int FN(row_of)(int h, int pitch, int part, int parts) {
  int vectors = (h * pitch + 15) / 16 * (16 / VL), y = (share(vectors, part, parts) * VL + pitch - 1) / pitch;
  return y < h ? y : h;
}

/* Writes zeros in the columns after the rows `y` to `end` of (h, w), and after the last row. */
static void FN(pads)(float *plane, int h, int w, int pitch, int positions, int y, int end) {
  int pad = pitch - w, last = y < h && end == h;
  float *at = plane + (int64_t)y * pitch + w;
  if (pad == 2)
    for (; y < end; y++, at += pitch) at[0] = at[1] = 0;
  else if (pad == 3)
    for (; y < end; y++, at += pitch) at[0] = at[1] = at[2] = 0;
  else
    for (; y < end; y++, at += pitch)
      for (int x = 0; x < pad; x++) at[x] = 0;
  for (int p = h * pitch; last && p < positions; p++) plane[p] = 0;
}

/* Writes zeros before, between and after the phases of a plane. */
static void FN(halos)(float *plane, int halo, int phase, int phases, int positions) {
  FN(fill)(plane, halo);
  for (int f = 0; f < phases; f++)
    FN(fill)(plane + halo + f * phase + positions, phase - positions);
}

/* Writes zeros at the vectors `first` to `end` of the planes that these rows write. */
static void FN(clear)(float *out, const Row *row, int rows, int first, int end) {
  for (int r = 0; first < end && r < rows; r++) FN(fill)(out + row[r].out + first * VL, (int64_t)(end - first) * VL);
}

/* Runs the share of `part` of `parts` in one operation: the positions or rows of maps from `first` to `end`, which are about the
 * same for a part in each operation, so that the values it reads are in its own processor's cache; or every `parts`-th channel.
 * `own` means memory that each part has for itself; everything else is in the arena, which the parts share.
 * With several strips, a part is one strip of a thread's share, and its own memory begins with the first position of the strip. */
static void FN(run_op)(const Op *op, const float *image, float *output, float *arena, float *own, int part, int parts) {
  const int32_t *a = op->a;
  int first, end;
  switch (op->kind) {
    case ROWS: /* first row, rows, positions, act, phases, their distance, the same in the output, where their masks begin
                * (-1: none), number of positions around its own that a part also computes, whether the output is own, the taps (1: all
                * own, 2: shared and own) */
      first = share(a[2] / VL, part, parts), end = share(a[2] / VL, part + 1, parts);
      if (first == end) break;
      if (op->strips > 1) own -= first * VL;
      first = first - a[8] / VL, end = end + a[8] / VL;
      if (op->strips > 1 && a[9])
        for (int f = 0; f < a[4]; f++) {
          FN(clear)(own + (int64_t)f * a[6], ROW_TABLE + a[0], a[1], first, 0);
          FN(clear)(own + (int64_t)f * a[6], ROW_TABLE + a[0], a[1], a[2] / VL, end);
        }
      if (first < 0) first = 0;
      if (end > a[2] / VL) end = a[2] / VL;
      for (int f = 0; f < a[4]; f++)
        FN(run_rows)((a[10] == 1 ? own : arena) + (int64_t)f * a[5], (a[10] ? own : arena) + (int64_t)f * a[5],
                     (a[9] ? own : arena) + (int64_t)f * a[6], ROW_TABLE + a[0], a[1], first, end, a[3],
                     a[7] < 0 ? -1 : a[7] + f * a[2]);
      break;
    case PLANES: /* first row, rows, positions, act, whether input and output are own */
      first = share(a[2] / VL, part, parts), end = share(a[2] / VL, part + 1, parts);
      if (op->strips > 1) own -= first * VL;
      FN(run_planes)(a[4] ? own : arena, a[4] ? own : arena, ROW_TABLE + a[0], a[1], first, end, a[3]);
      break;
    case PADS: /* start, planes, plane, h, w, pitch, positions */
      first = FN(row_of)(a[3], a[5], part, parts), end = FN(row_of)(a[3], a[5], part + 1, parts);
      for (int c = 0; c < a[1]; c++) FN(pads)(arena + a[0] + (int64_t)c * a[2], a[3], a[4], a[5], a[6], first, end);
      break;
    case HALOS: /* start, planes, plane, halo, phase, phases, positions, whether they are own */
      for (int c = a[7] ? 0 : part; c < a[1]; c += a[7] ? 1 : parts)
        FN(halos)((a[7] ? own : arena) + a[0] + (int64_t)c * a[2], a[3], a[4], a[5], a[6]);
      break;
    case COPY: /* out, plane, channels, h, w, pitch: copies the image */
      first = FN(row_of)(a[3], a[5], part, parts), end = FN(row_of)(a[3], a[5], part + 1, parts);
      for (int c = 0; c < a[2]; c++)
        for (int y = first; y < end; y++)
          FN(copy)(image + ((int64_t)c * a[3] + y) * a[4], arena + a[0] + (int64_t)c * a[1] + y * a[5], a[4]);
      break;
    case SPLIT: /* in (-1: the image), its plane, out, plane, channels, h, w, pitch, h2, w2, pitch2, phase, clear */
      first = FN(row_of)(a[8], a[10], part, parts), end = FN(row_of)(a[8], a[10], part + 1, parts);
      for (int c = 0; c < a[4]; c++)
        FN(split)((a[0] < 0 ? image : arena + a[0]) + (int64_t)c * a[1], arena + a[2] + (int64_t)c * a[3], a + 5, first, end);
      break;
    case SPLIT_IMAGE: /* out, plane, channels, h, w, h4, pitch, phase */
      first = FN(row_of)(a[5], a[6], part, parts), end = FN(row_of)(a[5], a[6], part + 1, parts);
      for (int c = 0; c < a[2]; c++)
        FN(split_image)(image + (int64_t)c * a[3] * a[4], arena + a[0] + (int64_t)c * a[1], a[3], a[4], a[6], a[7], first, end);
      break;
    case UP2: /* in, plane, out, plane, channels, h, w, pitch, pitch2 */
      first = FN(row_of)(2 * a[5], a[8], part, parts), end = FN(row_of)(2 * a[5], a[8], part + 1, parts);
      for (int c = 0; c < a[4]; c++)
        FN(up2)(arena + a[0] + (int64_t)c * a[1], arena + a[2] + (int64_t)c * a[3], a[6], a[7], a[8], first, end);
      break;
    case RESIZE: { /* in, plane, out, plane, channels, h, w, pitch, h2, w2, pitch2, own space, times, four tables (first numbers),
                    * whether the output is own, then: number of positions around its own whose rows a part also computes */
      float *out = (a[17] ? own : arena) + a[2];
      if (!a[17]) {
        first = FN(row_of)(a[8], a[10], part, parts), end = FN(row_of)(a[8], a[10], part + 1, parts);
      } else {
        int vectors = (a[8] * a[10] + 15) / 16 * (16 / VL);
        first = share(vectors, part, parts) * VL, end = share(vectors, part + 1, parts) * VL;
        if (first == end) break;
        if (op->strips > 1) out -= first;
        first = first > a[18] ? (first - a[18]) / a[10] : 0, end = (end + a[18] + a[10] - 1) / a[10];
        if (end > a[8]) end = a[8];
      }
      for (int c = 0; c < a[4]; c++)
        FN(resize)(arena + a[0] + (int64_t)c * a[1], out + (int64_t)c * a[3], a + 5, own + a[11], first, end);
      break;
    }
    case MEAN: /* in, plane, out, distance (1, or space for vectors, which are filled), channels, h, w, pitch */
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
    case MULTIPLY: /* in, plane, factors, their distance, out, plane, channels, positions */
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
      first = FN(row_of)(a[3], a[5], part, parts), end = FN(row_of)(a[3], a[5], part + 1, parts);
      for (int c = 0; c < a[2]; c++)
        for (int y = first; y < end; y++)
          FN(copy)(arena + a[0] + (int64_t)c * a[1] + y * a[5], output + ((int64_t)c * a[3] + y) * a[4], a[4]);
      break;
  }
}

/* Runs all operations; after those with `wait`, all parts wait for each other. Operations up to one of these that have the same
 * number of strips run together: all of them for the first strip of a part's share, then all of them for the next one. The strips
 * are divided among the parts; if their number is not a multiple of `parts`, there are more of them, which are smaller. */
static void FN(run)(const float *image, float *output, char *memory, int part, int parts, void (*wait)(void)) {
  uint32_t *arrived = (uint32_t *)memory, met = 1;
  float *arena = (float *)(memory + 64), *own = arena + SHARED + (int64_t)part * OWN;
  for (int i = 0, end; i < OP_COUNT; i = end) {
    for (end = i + 1; end < OP_COUNT && !OPS[end - 1].wait && OPS[end].strips == OPS[i].strips;) end++;
    int strips = (OPS[i].strips + parts - 1) / parts; /* of each part */
    for (int s = part * strips; s < (part + 1) * strips; s++)
      for (int j = i; j < end; j++) FN(run_op)(OPS + j, image, output, arena, own, s, parts * strips);
    if (parts > 1 && OPS[end - 1].wait) meet(arrived, met++ * (uint32_t)parts, wait);
  }
  if (parts > 1) leave(arrived, met * (uint32_t)parts);
}
