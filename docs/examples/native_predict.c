/* Run a ticket in C, using only the two files of the export.
 *
 *     supertickets export TICKET --format c --out ticket.c
 *     cc -O3 -o predict docs/examples/native_predict.c ticket.c -I.
 *     ./predict image.f32         (3 x H x W floats, normalised as ticket_metadata() says)
 */
#include <stdio.h>
#include <stdlib.h>

#include "ticket.h"

int main(int argc, char **argv) {
  int64_t s[9];
  if (ticket_sizes(s)) return fprintf(stderr, "this processor lacks the instructions: %s\n", ticket_version()), 1;
  printf("%s\nimage %d x %d x %d\n", ticket_version(), (int)s[0], (int)s[1], (int)s[2]);
  size_t inputs = (size_t)(s[0] * s[1] * s[2]), outputs = (size_t)(s[3] * s[4] * s[5]);
  float *image = calloc(inputs, sizeof *image), *output = calloc(outputs, sizeof *output);
  void *scratch = malloc((size_t)s[6]);
  if (!image || !output || !scratch) return 1;
  FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
  if (argc > 1 && (!file || fread(image, sizeof *image, inputs, file) != inputs))
    return fprintf(stderr, "%s: not %zu floats\n", argv[1], inputs), 1;
  if (ticket_run(image, output, scratch)) return 1;
  size_t best = 0;
  for (size_t i = 1; i < outputs; i++)
    if (output[i] > output[best]) best = i;
  printf("largest output: number %zu of %zu, %f\n", best, outputs, output[best]);
  return free(image), free(output), free(scratch), 0;
}
