#include "block.h"

#include <sstream>

#include "checker.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace wemoe::emulator {

Block block;

namespace {

void resume(Fiber& from, int thread) {
  block.current = thread;
  threadIdx = block.threads[thread].index;
  Fiber::change(from, block.threads[thread].fiber);
}

std::string place(Location location) {
  return std::string(location.file_name()) + ":" + std::to_string(location.line());
}

void leave_warp() {
  Warp& warp = block.running_warp();
  warp.live &= ~(1u << lane_index());
  for (int lane = 0; lane < WARP; lane++) {
    if ((warp.arrived >> lane & 1) && (warp.waiting[lane].mask >> lane_index() & 1)) {
      fail(std::string("a thread ends although lane ") + std::to_string(lane) + " waits for it in " +
               warp.waiting[lane].name,
           block.threads[block.current / WARP * WARP + lane].location);
    }
  }
}

void run_thread() {
  block.body(block.context);
  Thread& thread = block.running();
  for (const AsyncCopy& copy : thread.copies) {
    fail("a thread ends with asynchronous copies that it has never waited for", copy.location);
  }
  thread.state = State::DONE;
  block.live--;
  leave_warp();
  finish_barrier();
  yield();
}

void fail_for_deadlock() {
  std::ostringstream message;
  message << "deadlock: " << block.live << " of " << block.size << " threads wait for ever";
  const Thread* last = nullptr;
  int shown = 0;
  for (int i = 0; i < block.size && shown < 8; i++) {
    const Thread& thread = block.threads[i];
    if (thread.state == State::DONE) continue;
    if (last != nullptr && place(last->location) == place(thread.location)) continue;
    const char* name =
        thread.state == State::AT_BARRIER ? "__syncthreads" : block.warps[i / WARP].waiting[i % WARP].name;
    message << "; from thread " << i << " on in " << name << " at " << place(thread.location);
    last = &thread;
    shown++;
  }
  record_failure(message.str(), last->location);
}

}  // namespace

int lane_index() { return block.current % WARP; }
unsigned char* dynamic_shared() { return block.shared; }

void yield() {
  Fiber& from = block.running().fiber;
  if (block.ready.empty()) {
    Fiber::change(from, block.launcher);
  } else if (const int next = block.ready.take(block.random); next != block.current) {
    resume(from, next);
  }
}

void finish_barrier() {
  if (block.live == 0 || block.at_barrier != block.live) return;
  block.at_barrier = 0;
  if constexpr (CHECKED) check_barrier();
  for (int i = 0; i < block.size; i++) {
    if (block.threads[i].state != State::AT_BARRIER) continue;
    block.threads[i].state = State::READY;
    block.ready.add(i);
  }
}

void barrier(Location location) {
  for (int i = 0; block.at_barrier > 0 && i < block.size; i++) {
    const Thread& other = block.threads[i];
    if (other.state != State::AT_BARRIER) continue;
    if (place(other.location) != place(location)) {
      fail("threads of one block wait at different __syncthreads, others at " + place(other.location),
           location);
    }
    break;
  }
  Thread& thread = block.running();
  thread.state = State::AT_BARRIER;
  thread.location = location;
  block.at_barrier++;
  finish_barrier();
  yield();
}

void collective(const char* name, uint32_t mask, void* operand, Combine combine, bool orders_memory,
                Location location) {
  Warp& warp = block.running_warp();
  const int lane = lane_index(), first_thread = block.current - lane;
  if (!(mask >> lane & 1)) fail(std::string("a lane calls ") + name + " and is not in its mask", location);
  if (mask & ~warp.live) {
    fail(std::string(name) + " names lanes that have ended or never were", location);
  }
  if (const uint32_t others = warp.arrived & mask) {
    const int other = __builtin_ctz(others);
    const Waiting& waiting = warp.waiting[other];
    const Location there = block.threads[first_thread + other].location;
    if (waiting.name != std::string(name) || waiting.mask != mask || place(there) != place(location)) {
      fail(std::string("divergent warp: this lane is in ") + name + ", lane " + std::to_string(other) +
               " waits in " + waiting.name + " at " + place(there),
           location);
    }
  }
  warp.waiting[lane] = {name, mask, operand};
  warp.arrived |= 1u << lane;
  block.running().state = State::IN_COLLECTIVE;
  block.running().location = location;
  if ((warp.arrived & mask) == mask) {
    if constexpr (CHECKED) check_collective(block.current / WARP, orders_memory && mask == warp.live);
    void* operands[WARP] = {};
    for (int i = 0; i < WARP; i++) {
      if (!(mask >> i & 1)) continue;
      operands[i] = warp.waiting[i].operand;
      block.threads[first_thread + i].state = State::READY;
      block.ready.add(first_thread + i);
    }
    warp.arrived &= ~mask;
    combine(operands, mask);
  }
  yield();
}

void run_block(uint64_t index) {
  const int warps = (block.size + WARP - 1) / WARP;
  block.random.seed(block.schedule.seed, index);
  block.ready.reset(block.schedule.order, warps, block.random);
  block.live = block.size;
  block.at_barrier = 0;
  for (Warp& warp : block.warps) {
    warp.live = warp.arrived = 0;
  }
  for (int i = 0; i < block.size; i++) {
    Thread& thread = block.threads[i];
    thread.index = {static_cast<unsigned>(i), 0, 0};
    thread.state = State::READY;
    thread.location = {};
    thread.copies.clear();
    thread.copy_groups = 0;
    thread.fiber.start(run_thread);
    block.warps[i / WARP].live |= 1u << i % WARP;
    block.ready.add(i);
  }
  resume(block.launcher, block.ready.take(block.random));
  if (!block.failed && block.live > 0) fail_for_deadlock();
}

}  // namespace wemoe::emulator
