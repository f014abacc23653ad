#include "checker.h"

#include <vector_types.h>

#include <deque>
#include <optional>
#include <set>
#include <sstream>
#include <tuple>

#include "accesses.h"
#include "block.h"
#include "shadow.h"
#include "static_shared.h"

extern uint3 blockIdx;

namespace wemoe::emulator {
namespace {

constexpr ptrdiff_t GUARD_BYTES = 4096;  // about a buffer: an access there is meant for the buffer

struct Buffer {
  const char* start;
  size_t bytes;
  std::string name;
  std::optional<Shadow> shadow;  // of what may be written
  Traffic traffic;
};

struct Checked {
  Clock clock;
  Shadow shared{MAX_SHARED_BYTES, false}, statics{static_shared().bytes, false};
  std::deque<Buffer> buffers;
  Accesses accesses;
  std::set<std::tuple<std::string, std::string, std::string>> known;  // what, where, in which memory
  std::string findings;
};

Checked& state() {
  static auto* state = new Checked;  // lives as long as the library
  return *state;
}

void report(const char* what, const std::string& memory, ptrdiff_t offset, Site site, int other = -1) {
  Checked& s = state();
  const std::string place = place_of(site);
  if (!s.known.emplace(what, place, memory).second) return;
  std::ostringstream text;
  text << "finding\t" << what << '\t' << place << '\t' << memory << '\t' << offset << '\t' << block.current
       << '\t' << other << '\t' << blockIdx.x << ' ' << blockIdx.y << ' ' << blockIdx.z << '\n';
  s.findings += text.str();
}

void check_shadow(Shadow& shadow, const char* memory, ptrdiff_t offset, int bytes, bool write, Site site) {
  const Clock& clock = state().clock;
  const Fault fault =
      shadow.access(static_cast<size_t>(offset), bytes, write, clock.now(block.current), clock);
  if (fault.what != nullptr) report(fault.what, memory, offset, site, fault.other);
}

void check_alignment(const void* address, int bytes, const char* memory, ptrdiff_t offset, Site site) {
  if (reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(bytes) != 0) {
    report("misaligned", memory, offset, site);
  }
}

Kind shared_kind(bool write) { return write ? Kind::SHARED_STORE : Kind::SHARED_LOAD; }

bool check_dynamic(const void* address, int bytes, bool write, Site site) {
  const ptrdiff_t offset = static_cast<const unsigned char*>(address) - block.shared;
  const auto size = static_cast<ptrdiff_t>(block.shared_bytes);
  if (offset < -GUARD_BYTES || offset >= static_cast<ptrdiff_t>(MAX_SHARED_BYTES) + GUARD_BYTES) return false;
  if (offset < 0 || offset + bytes > size) {
    report("out of bounds", "dynamic shared", offset, site);
    return true;
  }
  check_alignment(address, bytes, "dynamic shared", offset, site);
  check_shadow(state().shared, "dynamic shared", offset, bytes, write, site);
  state().accesses.add(site, shared_kind(write), address, bytes, block.current, nullptr);
  return true;
}

bool check_static(const void* address, int bytes, bool write, Site site) {
  const Span statics = static_shared();
  if (!statics.contains(address, static_cast<size_t>(bytes))) return false;
  const ptrdiff_t offset = static_cast<const unsigned char*>(address) - statics.start;
  check_alignment(address, bytes, "static shared", offset, site);
  check_shadow(state().statics, "static shared", offset, bytes, write, site);
  state().accesses.add(site, shared_kind(write), address, bytes, block.current, nullptr);
  return true;
}

void check_within(Buffer& buffer, ptrdiff_t offset, int bytes, bool write, Site site) {
  const char* name = buffer.name.c_str();
  check_alignment(buffer.start + offset, bytes, name, offset, site);
  if (buffer.shadow) {
    check_shadow(*buffer.shadow, name, offset, bytes, write, site);
  } else if (write) {
    report("write to an input", name, offset, site);
  }
  state().accesses.add(site, write ? Kind::GLOBAL_STORE : Kind::GLOBAL_LOAD, buffer.start + offset, bytes,
                       block.current, &buffer.traffic);
}

void check_global(const void* address, int bytes, bool write, Site site) {
  for (Buffer& buffer : state().buffers) {
    const ptrdiff_t offset = static_cast<const char*>(address) - buffer.start;
    const auto size = static_cast<ptrdiff_t>(buffer.bytes);
    if (offset < -GUARD_BYTES || offset >= size + GUARD_BYTES) continue;
    if (offset >= 0 && offset + bytes <= size) return check_within(buffer, offset, bytes, write, site);
    return report("out of bounds", buffer.name, offset, site);
  }
}

}  // namespace

void check_launch() { state().clock.first_block_of_launch = state().clock.block + 1; }

void check_block() {
  state().clock.block++;
  state().clock.epoch++;
}

void check_barrier() {
  state().clock.epoch++;
  check_end_of_block();
}

void check_collective(int warp, bool orders_memory) {
  if (orders_memory) state().clock.warp_epochs[warp]++;
  state().accesses.end_of_instructions(warp);
}

void check_end_of_block() {
  for (int warp = 0; warp < MAX_WARPS; warp++) {
    state().accesses.end_of_instructions(warp);
  }
}

void check_access(const void* address, int bytes, bool write, Site site) {
  if (block.running().fiber.owns(address)) return;
  if (check_dynamic(address, bytes, write, site) || check_static(address, bytes, write, site)) return;
  check_global(address, bytes, write, site);
}

void check_copy_issued(void* shared, const void* global, bool valid, Site site) {
  if (valid) check_access(global, 16, false, site);
  check_access(shared, 16, true, site);
  state().shared.set_in_flight(static_cast<size_t>(static_cast<unsigned char*>(shared) - block.shared), 16,
                               true);
}

void check_copy_done(void* shared, Site site) {
  const ptrdiff_t offset = static_cast<unsigned char*>(shared) - block.shared;
  state().shared.set_in_flight(static_cast<size_t>(offset), 16, false);
  check_shadow(state().shared, "dynamic shared", offset, 16, true, site);
}

void track(const void* start, size_t bytes, const char* name, bool writable) {
  Buffer& buffer = state().buffers.emplace_back();
  buffer.start = static_cast<const char*>(start);
  buffer.bytes = bytes;
  buffer.name = name;
  if (CHECKED && writable) buffer.shadow.emplace(bytes, true);
}

void forget() {
  Checked& s = state();
  s.buffers.clear();
  s.accesses = {};
  s.known.clear();
  s.findings.clear();
}

std::string findings() {
  std::ostringstream text;
  text << state().findings << state().accesses.lines();
  for (const Buffer& buffer : state().buffers) {
    text << "traffic\t" << buffer.name << '\t' << buffer.traffic.read << '\t' << buffer.traffic.written
         << '\n';
  }
  return text.str();
}

}  // namespace wemoe::emulator
