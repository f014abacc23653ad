// A stack of its own for each emulated thread, and the switch from one to another.

#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__) || defined(WEMOE_UCONTEXT)
#define WEMOE_SWITCH_BY_UCONTEXT
#include <ucontext.h>
#endif

namespace wemoe::emulator {

class Fiber {
 public:
  // Its next turn begins with entry, which never returns.
  void start(void (*entry)());

  // Leaves the running fiber, to be resumed here, and resumes another one.
  static void change(Fiber& from, Fiber& to);

  bool owns(const void* address) const {
    return reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(stack_) < STACK_BYTES;
  }

 private:
  static constexpr size_t STACK_BYTES = 256 * 1024;

  char* stack_ = nullptr;
#ifdef WEMOE_SWITCH_BY_UCONTEXT
  ucontext_t context_;
#else
  void* pointer_;
#endif
};

}  // namespace wemoe::emulator
