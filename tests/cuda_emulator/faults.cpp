#include "faults.h"

#include <ucontext.h>

#include "block.h"

namespace wemoe::emulator {
namespace {

alignas(16) char signal_stack[64 * 1024];  // the fiber's own may be what has overflown

const void* faulting_instruction(void* context) {
#ifdef __x86_64__
  return reinterpret_cast<const void*>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#else
  return nullptr;
#endif
}

// Leaves the handler for the launcher, as a fiber leaves for another. Signals stay open by SA_NODEFER.
void abandon_launch(int signal, siginfo_t*, void* context) {
  record_fault(
      signal == SIGFPE ? "a division by zero" : "an access to memory that is not there or not aligned",
      faulting_instruction(context));
  block.failed = true;
  Fiber::change(block.running().fiber, block.launcher);
}

}  // namespace

CatchFaults::CatchFaults() {
  stack_t stack{};
  stack.ss_sp = signal_stack;
  stack.ss_size = sizeof(signal_stack);
  sigaltstack(&stack, &stack_);
  struct sigaction action{};
  action.sa_sigaction = abandon_launch;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int i = 0; i < 3; i++) {
    sigaction(SIGNALS[i], &action, &before_[i]);
  }
}

CatchFaults::~CatchFaults() {
  for (int i = 0; i < 3; i++) {
    sigaction(SIGNALS[i], &before_[i], nullptr);
  }
  sigaltstack(&stack_, nullptr);
}

}  // namespace wemoe::emulator
