// Asynchronous copies: they may take effect at any time from their issue to the wait for their group.

#include <cstring>

#include "block.h"
#include "checker.h"

namespace wemoe::emulator {
namespace {

void check_alignment(const char* what, const void* address, Location location) {
  const auto remainder = reinterpret_cast<uintptr_t>(address) % 16;
  if (remainder != 0) {
    fail(std::string(what) + " must be a multiple of 16, it is " + std::to_string(remainder) + " past one",
         location);
  }
}

void check_shared(const void* address, Location location) {
  const auto offset = static_cast<const unsigned char*>(address) - block.shared;
  if (offset < 0 || offset + 16 > static_cast<int64_t>(block.shared_bytes)) {
    fail("an address in shared memory must lie within the launch's " + std::to_string(block.shared_bytes) +
             " bytes, it is at " + std::to_string(offset),
         location);
  }
}

void take_effect(AsyncCopy& copy) {
  if (copy.done) return;
  copy.done = true;
  if (copy.valid) {
    std::memcpy(copy.shared, copy.global, 16);
  } else {
    std::memset(copy.shared, 0, 16);
  }
}

bool now() {
  const Copies copies = block.schedule.copies;
  return copies == Copies::AT_ISSUE || (copies == Copies::TOSSED && block.random.below(2) == 0);
}

}  // namespace

void copy_16(void* shared, const void* global, bool valid, Location location) {
  check_alignment("the target of an asynchronous copy", shared, location);
  check_alignment("the source of an asynchronous copy", global, location);
  check_shared(shared, location);
  Thread& thread = block.running();
  thread.location = location;
  if constexpr (CHECKED) check_copy_issued(shared, global, valid, site_of(location));
  AsyncCopy copy{shared, global, valid, false, thread.copy_groups, location};
  if (now()) take_effect(copy);
  thread.copies.push_back(copy);
}

void commit_copies() { block.running().copy_groups++; }

void wait_for_copies(int newest) {
  Thread& thread = block.running();
  size_t kept = 0;
  for (AsyncCopy& copy : thread.copies) {
    if (copy.group >= thread.copy_groups - newest) {
      thread.copies[kept++] = copy;
      continue;
    }
    take_effect(copy);
    if constexpr (CHECKED) check_copy_done(copy.shared, site_of(copy.location));
  }
  thread.copies.erase(thread.copies.begin() + static_cast<std::ptrdiff_t>(kept), thread.copies.end());
}

void read_row(void* row, const void* shared, Location location) {
  check_alignment("a row of ldmatrix", shared, location);
  check_shared(shared, location);
  if constexpr (CHECKED) check_access(shared, 16, false, site_of(location));
  std::memcpy(row, shared, 16);
}

}  // namespace wemoe::emulator
