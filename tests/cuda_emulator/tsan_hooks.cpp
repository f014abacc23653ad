// Kernels of the checked build are compiled with -fsanitize=thread and linked with this file in place of the
// sanitizer's own library: so the compiler tells the checker of every load and store.

#include <algorithm>

#include "checker.h"

namespace {

using namespace wemoe::emulator;

// A copy of a struct counts as its widest aligned parts.
void check_range(const void* start, long bytes, bool write, Site site) {
  const auto* next = static_cast<const char*>(start);
  while (bytes > 0) {
    long part = 16;
    while (part > bytes || reinterpret_cast<uintptr_t>(next) % static_cast<uintptr_t>(part) != 0) {
      part /= 2;
    }
    check_access(next, static_cast<int>(part), write, site);
    next += part;
    bytes -= part;
  }
}

}  // namespace

#define HERE (wemoe::emulator::Site{nullptr, 0, __builtin_return_address(0)})

#define ACCESS(NAME, BYTES, WRITE) \
  void __tsan_##NAME##BYTES(void* address) { check_access(address, BYTES, WRITE, HERE); }

#define ACCESSES(BYTES)                \
  ACCESS(read, BYTES, false)           \
  ACCESS(write, BYTES, true)           \
  ACCESS(unaligned_read, BYTES, false) \
  ACCESS(unaligned_write, BYTES, true) \
  ACCESS(volatile_read, BYTES, false)  \
  ACCESS(volatile_write, BYTES, true)

extern "C" {

ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

void __tsan_read_range(void* start, long bytes) { check_range(start, bytes, false, HERE); }
void __tsan_write_range(void* start, long bytes) { check_range(start, bytes, true, HERE); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
