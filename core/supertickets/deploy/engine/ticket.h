/* A ticket compiled to C: seven functions without libraries or global state. The file contains the weights and everything else.
 *
 * All numbers are float32. Images and outputs are stored as (C, H, W), and each call processes one image. Any number of threads
 * may run the same ticket at the same time, each with its own scratch memory. Compile with -O3, with GCC 9, Clang 11 or newer.
 * To use several tickets in one program, -DTICKET_PREFIX=name renames the functions to name_sizes and so on.
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
 * are 1 for the logits of a whole picture); sizes[6]: bytes of scratch memory for one call; sizes[7]: multiplications;
 * sizes[8]: additional bytes of scratch memory for each further thread that takes part in one call (`run_part`).
 * Returns 0 if this processor can run the ticket, and -1 if it lacks the instructions. */
TICKET_API int TICKET_FUNCTION(sizes)(int64_t sizes[9]);

/* Reads the whole image and writes the whole output. Scratch memory needs no alignment or initial values; it is overwritten.
 * Returns 0, or -1 without writing anything if this processor lacks the instructions. */
TICKET_API int TICKET_FUNCTION(run)(const float *image, float *output, void *scratch);

/* Runs one image on several threads: `parts` threads make the same call at the same time, each with its own `part` from 0 on and
 * all with the same scratch memory of sizes[6] + (parts - 1) * sizes[8] bytes. The first 128 bytes of this memory must be zero
 * before its first use; each call leaves them ready for the next one. The parts wait for each other after each block of the
 * network: they spin for a while, then call `wait` repeatedly (for example sched_yield; with 0 they only spin). */
TICKET_API int TICKET_FUNCTION(run_part)(
    const float *image, float *output, void *scratch, int part, int parts, void (*wait)(void));

/* Runs one image after the other on the same threads. Initialise `team` with zeros. One thread calls `lead` for each image, as it
 * would call `run_part`; each of the other threads calls `follow` with its own `part` from 1 to parts - 1 and the number of images
 * that it has seen (0 at first). `follow` spins, takes part in each image, and returns the new number if no image has come for
 * about a millisecond. `lead` waits for a thread until it calls `follow` again, so a sleeping thread must be woken before the next
 * image. */
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

/* "supertickets-engine 3; x86-64-v3 x86-64-v4": the number of the interface, then the processors that the code is for. */
TICKET_API const char *TICKET_FUNCTION(version)(void);

/* A JSON object: task, labels, preprocessing, metrics, sparsity, supertickets (the version that wrote it), output (shape). */
TICKET_API const char *TICKET_FUNCTION(metadata)(void);

#endif
