#include "fiber.h"

#include <sys/mman.h>

#include <new>

namespace wemoe::emulator {
namespace {

char* allocate_stack(size_t bytes) {
  void* stack =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack == MAP_FAILED) throw std::bad_alloc();
  mprotect(stack, 4096, PROT_NONE);  // so that an overflow is a fault
  return static_cast<char*>(stack);
}

}  // namespace

#ifdef WEMOE_SWITCH_BY_UCONTEXT

void Fiber::start(void (*entry)()) {
  if (stack_ == nullptr) stack_ = allocate_stack(STACK_BYTES);
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = STACK_BYTES;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
}

void Fiber::change(Fiber& from, Fiber& to) { swapcontext(&from.context_, &to.context_); }

#else

namespace {

// Keeps what the calling convention asks to keep. swapcontext would enter the kernel twice.
__attribute__((naked, noinline)) void change_stack(void** /*from*/, void* /*to*/) {
  asm volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}

}  // namespace

void Fiber::start(void (*entry)()) {
  if (stack_ == nullptr) stack_ = allocate_stack(STACK_BYTES);
  void** top = reinterpret_cast<void**>(stack_ + STACK_BYTES - 64);
  *--top = nullptr;  // the return address of entry; keeps the stack as a call would have left it
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; saved++) {
    *--top = nullptr;
  }
  pointer_ = top;
}

void Fiber::change(Fiber& from, Fiber& to) { change_stack(&from.pointer_, to.pointer_); }

#endif

}  // namespace wemoe::emulator
