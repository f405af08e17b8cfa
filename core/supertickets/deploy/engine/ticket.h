/* A ticket compiled to C: seven functions, no library, no state. Weights and everything else that is needed are inside.
 *
 * All numbers are float32, images and outputs lie in memory as (C, H, W), one image a call. Any number of threads may run
 * the same ticket at once, each with its own scratch memory. Compile with -O3; GCC 9 or Clang 11 and newer.
 * -DTICKET_PREFIX=name renames the functions to name_sizes and so on, for several tickets in one program.
 */
#ifndef TICKET_H
#define TICKET_H
#include <stdint.h>

#ifndef TICKET_PREFIX
#define TICKET_PREFIX ticket
#endif
#define TICKET_JOIN_(a, b) a##_##b
#define TICKET_JOIN(a, b) TICKET_JOIN_(a, b)
#define TICKET_FUNCTION(name) TICKET_JOIN(TICKET_PREFIX, name)
#if defined(_WIN32)
#define TICKET_API __declspec(dllexport)
#elif defined(__wasm__)
#define TICKET_API __attribute__((visibility("default"), used))
#else
#define TICKET_API __attribute__((visibility("default")))
#endif

/* sizes[0..2]: channels, height, width of the image; sizes[3..5]: channels, height, width of the output (height and width
 * are 1 for logits of a picture as a whole); sizes[6]: bytes of scratch memory for one call; sizes[7]: multiplications;
 * sizes[8]: further bytes of scratch memory for each further thread that takes part in one call (`run_part`).
 * Returns 0 where this processor can run the ticket, -1 where it lacks the instructions. */
TICKET_API int TICKET_FUNCTION(sizes)(int64_t sizes[9]);

/* Reads image, writes output, both whole. Scratch memory needs no alignment and no content; its old content is lost.
 * Returns 0, or -1 with nothing written where this processor lacks the instructions. */
TICKET_API int TICKET_FUNCTION(run)(const float *image, float *output, void *scratch);

/* One image by several threads: `parts` of them make the same call at once, each with its own `part` from 0 on and all with the
 * same scratch memory of sizes[6] + (parts - 1) * sizes[8] bytes. Its first 128 bytes must be zero before its first use; every
 * call leaves them fit for the next one. The parts wait for each other after each block of the network: they spin, then call
 * `wait` again and again (such as sched_yield; 0: they only spin). */
TICKET_API int TICKET_FUNCTION(run_part)(
    const float *image, float *output, void *scratch, int part, int parts, void (*wait)(void));

/* One image after the other by the same threads. `team` begins as zeros. One thread calls `lead` for each image, as it would call
 * `run_part`; each of the others calls `follow` with its own `part` from 1 to parts - 1 and the number of images that it has seen
 * (0 at first). It spins, takes part in each image, and gives the new number when no image has come for about a millisecond. Until
 * it calls `follow` again, `lead` waits for it: whoever wants it to sleep must wake it before the next image. */
typedef struct {
  uint32_t number, finished;
  int32_t parts;
  const float *image;
  float *output;
  void *scratch;
} TicketTeam;
TICKET_API int TICKET_FUNCTION(lead)(
    TicketTeam *team, const float *image, float *output, void *scratch, int parts, void (*wait)(void));
TICKET_API uint32_t TICKET_FUNCTION(follow)(TicketTeam *team, int part, uint32_t seen, void (*wait)(void));

/* "supertickets-engine 3; x86-64-v3 x86-64-v4": the interface's number, then the processors that the code is for. */
TICKET_API const char *TICKET_FUNCTION(version)(void);

/* A JSON object: task, labels, preprocessing, metrics, sparsity, supertickets (the version that wrote it), output (shape). */
TICKET_API const char *TICKET_FUNCTION(metadata)(void);

#endif
