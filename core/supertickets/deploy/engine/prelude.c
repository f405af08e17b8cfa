#define ALWAYS static inline __attribute__((always_inline))
#define HIDE(pointer) __asm__("" : "+r"(pointer)) /* one base register and constant displacements, whatever the loop */
#define UNROLL _Pragma("GCC unroll 16")
#define PATIENCE 2000 /* turns for which a waiting thread only spins */
#define CACHED 8192 /* number of floats that certainly fit in the first-level cache */
/* Never written, but not const: gcc would search such large tables for constants, which takes gigabytes of memory. */
#define TABLE __attribute__((used)) static

typedef struct { int32_t offset; float weight; } Tap;
typedef struct { int32_t out, first, shared, taps; float bias; } Row; /* taps: the first `shared` of them in the arena */
typedef struct { int32_t kind, wait, strips, a[19]; } Op;

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (FN(lanes)){__VA_ARGS__})
#endif
#define EVEN_16 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD_16 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define LOW_16 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_16 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define EVEN_8 0, 2, 4, 6, 8, 10, 12, 14
#define ODD_8 1, 3, 5, 7, 9, 11, 13, 15
#define LOW_8 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_8 4, 12, 5, 13, 6, 14, 7, 15
#define EVEN_4 0, 2, 4, 6
#define ODD_4 1, 3, 5, 7
#define LOW_4 0, 4, 1, 5
#define HIGH_4 2, 6, 3, 7
#define BEFORE_16 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
#define AFTER_16 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16
#define LANES_16 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#define BEFORE_8 7, 8, 9, 10, 11, 12, 13, 14
#define AFTER_8 1, 2, 3, 4, 5, 6, 7, 8
#define LANES_8 0, 1, 2, 3, 4, 5, 6, 7
#define BEFORE_4 3, 4, 5, 6
#define AFTER_4 1, 2, 3, 4
#define LANES_4 0, 1, 2, 3
#define FOR_WIDTH_(name, width) name##_##width
#define FOR_WIDTH(name, width) FOR_WIDTH_(name, width)
#define EVEN FOR_WIDTH(EVEN, VL)
#define ODD FOR_WIDTH(ODD, VL)
#define LOW FOR_WIDTH(LOW, VL)
#define HIGH FOR_WIDTH(HIGH, VL)
#define BEFORE FOR_WIDTH(BEFORE, VL) /* the value before each one, and after it */
#define AFTER FOR_WIDTH(AFTER, VL)
#define LANES FOR_WIDTH(LANES, VL)

/* For x86-64 this file contains code for two kinds of processors, one of which is chosen when it runs. -DTICKET_X86=3 or 4 keeps
 * only one of them, and with 0 the compiler's own options decide. */
#if defined(__x86_64__) && !defined(TICKET_X86)
#define TICKET_X86 34
#elif !defined(__x86_64__)
#define TICKET_X86 0
#endif
#if TICKET_X86
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

/* Where the share of `part` of `parts` begins in `count` vectors. */
static int share(int64_t count, int part, int parts) { return (int)(count * part / parts); }

/* A counter in the scratch memory of a call counts the arrivals of its parts; the last part to leave resets it. */
static void meet_at(const uint32_t *arrived, uint32_t all, void (*wait)(void)) {
  for (int turns = 0; __atomic_load_n(arrived, __ATOMIC_ACQUIRE) < all; turns += turns <= PATIENCE)
    if (wait && turns > PATIENCE) wait();
}

static void meet(uint32_t *arrived, uint32_t all, void (*wait)(void)) {
  __atomic_add_fetch(arrived, 1, __ATOMIC_ACQ_REL);
  meet_at(arrived, all, wait);
}

static void leave(uint32_t *arrived, uint32_t all) {
  if (__atomic_add_fetch(arrived, 1, __ATOMIC_ACQ_REL) == all) __atomic_store_n(arrived, 0, __ATOMIC_RELEASE);
}
