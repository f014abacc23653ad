// The block that runs: its threads, and what each of them waits for.

#pragma once

#include <vector_types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "fiber.h"
#include "ready.h"
#include "runtime.h"

namespace wemoe::emulator {

struct AsyncCopy {
  void* shared;
  const void* global;
  bool valid, done;
  int group;
  Location location;
};

enum class State { READY, AT_BARRIER, IN_COLLECTIVE, DONE };

struct Thread {
  Fiber fiber;
  uint3 index;
  State state;
  Location location;  // of the last thing that it waited for
  std::vector<AsyncCopy> copies;
  int copy_groups;  // that it has closed
};

struct Waiting {
  const char* name;
  uint32_t mask;
  void* operand;
};

struct Warp {
  uint32_t live, arrived;
  Waiting waiting[WARP];  // of the lanes that have arrived
};

struct Block {
  Thread threads[MAX_THREADS];
  Warp warps[MAX_WARPS];
  Fiber launcher;
  ReadyThreads ready;
  Random random;
  Schedule schedule;
  int size, live, at_barrier, current;
  bool failed;
  unsigned char* shared;
  size_t shared_bytes;
  void (*body)(void*);
  void* context;

  Thread& running() { return threads[current]; }
  Warp& running_warp() { return warps[current / WARP]; }
};

extern Block block;

void yield();           // to whichever thread is next, or to the launcher if none is ready
void finish_barrier();  // if all live threads are there
void run_block(uint64_t index);
void record_failure(const std::string& message, Location location);
void record_fault(const char* what, const void* address);  // of the instruction

}  // namespace wemoe::emulator
