// Kernels that touch memory that is not there, or divide by zero, end their launch and not the process.

#pragma once

#include <signal.h>

namespace wemoe::emulator {

class CatchFaults {
 public:
  CatchFaults();
  ~CatchFaults();
  CatchFaults(const CatchFaults&) = delete;
  CatchFaults& operator=(const CatchFaults&) = delete;

 private:
  static constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE};

  struct sigaction before_[3];
  stack_t stack_;
};

}  // namespace wemoe::emulator
