#if TICKET_X86
/* 0: neither; 3: AVX2 and FMA; 4: also AVX-512 (F, DQ, CD, BW, VL), provided that the system supports their registers. */
static int x86_level(void) {
#ifdef TICKET_X86_FOUND /* for tests */
  return TICKET_X86_FOUND;
#else
  uint32_t a, b, c, d, low, high;
  __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "0"(0), "2"(0));
  if (a < 7) return 0;
  __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "0"(1), "2"(0));
  if ((c >> 27 & 1) == 0 || (c >> 12 & 1) == 0) return 0; /* XGETBV, FMA */
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "0"(7), "2"(0));
  if ((low & 6) != 6 || (b >> 5 & 1) == 0) return 0;
  const uint32_t wide = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;
  return (low & 0xe6) == 0xe6 && (b & wide) == wide ? 4 : 3;
#endif
}
#endif

/* The level of code for this processor: 4 or 3 (x86-64), 1 (others), or 0 if it lacks the instructions. */
static int level(void) {
#if TICKET_X86
  int found = x86_level();
#if TICKET_X86 == 4
  return found >= 4 ? 4 : 0;
#elif TICKET_X86 == 3
  return found >= 3 ? 3 : 0;
#else
  return found;
#endif
#else
  return 1;
#endif
}

TICKET_API int TICKET_FUNCTION(sizes)(int64_t sizes[9]) {
  for (int i = 0; i < 9; i++) sizes[i] = SIZES[i];
  return level() ? 0 : -1;
}

TICKET_API int TICKET_FUNCTION(run_part)(const float *image, float *output, void *scratch, int part, int parts, void (*wait)(void)) {
  char *memory = (char *)(((uintptr_t)scratch + 63) / 64 * 64);
  switch (level()) {
#if TICKET_X86
#if TICKET_X86 != 3
    case 4: run_v4(image, output, memory, part, parts, wait); return 0;
#endif
#if TICKET_X86 != 4
    case 3: run_v3(image, output, memory, part, parts, wait); return 0;
#endif
#else
    case 1: run_plain(image, output, memory, part, parts, wait); return 0;
#endif
  }
  return -1;
}

TICKET_API int TICKET_FUNCTION(run)(const float *image, float *output, void *scratch) {
  return TICKET_FUNCTION(run_part)(image, output, scratch, 0, 1, 0);
}

TICKET_API int TICKET_FUNCTION(lead)(
    TicketTeam *team, const float *image, float *output, void *scratch, int parts, void (*wait)(void)) {
  team->image = image, team->output = output, team->scratch = scratch, team->parts = parts, team->finished = 0;
  __atomic_add_fetch(&team->number, 1, __ATOMIC_RELEASE);
  int failed = TICKET_FUNCTION(run_part)(image, output, scratch, 0, parts, wait);
  meet_at(&team->finished, (uint32_t)(parts - 1), wait);
  return failed;
}

TICKET_API uint32_t TICKET_FUNCTION(follow)(TicketTeam *team, int part, uint32_t seen, void (*wait)(void)) {
  for (int turns = 0; turns < PATIENCE + 2000; turns++) {
    uint32_t number = __atomic_load_n(&team->number, __ATOMIC_ACQUIRE);
    if (number == seen) {
      if (wait && turns > PATIENCE) wait();
      continue;
    }
    seen = number, turns = 0;
    if (part >= team->parts) continue;
    TICKET_FUNCTION(run_part)(team->image, team->output, team->scratch, part, team->parts, wait);
    __atomic_add_fetch(&team->finished, 1, __ATOMIC_RELEASE);
  }
  return seen;
}

TICKET_API const char *TICKET_FUNCTION(version)(void) { return VERSION; }

TICKET_API const char *TICKET_FUNCTION(metadata)(void) { return METADATA; }
