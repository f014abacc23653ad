// Kernels that touch memory that is not there end their launch, not the process.

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
  struct sigaction segment_, bus_;
  stack_t stack_;
};

}  // namespace wemoe::emulator
