// What Python asks of the library, beside the kernels' own functions; and failures, which it asks for.

#include <dlfcn.h>

#include <sstream>

#include "block.h"
#include "checker.h"

extern uint3 blockIdx;

namespace wemoe::emulator {
namespace {

std::string failure;

// message, place, thread, block: fields that are separated by tabs
void record(const std::string& message, const std::string& place) {
  if (!failure.empty()) return;
  std::ostringstream text;
  text << message << '\t' << place << '\t' << block.current << '\t' << blockIdx.x << ' ' << blockIdx.y << ' '
       << blockIdx.z;
  failure = text.str();
}

}  // namespace

std::string place_of(Site site) {
  if (site.file != nullptr) return std::string(site.file) + ":" + std::to_string(site.line);
  Dl_info library{};
  dladdr(reinterpret_cast<const void*>(&place_of), &library);
  const auto offset = static_cast<const char*>(site.address) - static_cast<const char*>(library.dli_fbase);
  return "+" + std::to_string(offset);  // in the library, for Python to look up
}

void record_failure(const std::string& message, Location location) {
  record(message, location.line() == 0 ? "" : place_of(site_of(location)));
}

void record_fault(const char* what, const void* address) { record(what, place_of({nullptr, 0, address})); }

void fail(const std::string& message, Location location) {
  record_failure(message, location);
  block.failed = true;
  Fiber::change(block.running().fiber, block.launcher);
  __builtin_unreachable();
}

}  // namespace wemoe::emulator

extern "C" {

void emulator_schedule(int order, int copies, uint64_t seed) {
  using namespace wemoe::emulator;
  block.schedule = {static_cast<Order>(order), static_cast<Copies>(copies), seed};
}

void emulator_track(const void* start, size_t bytes, const char* name, bool writable) {
  wemoe::emulator::track(start, bytes, name, writable);
}

// Forgets buffers, findings and failures.
void emulator_reset() {
  wemoe::emulator::failure.clear();
  wemoe::emulator::forget();
}

const char* emulator_failure() { return wemoe::emulator::failure.c_str(); }  // the first one, or nothing

const char* emulator_findings() {
  static std::string text;
  text = wemoe::emulator::findings();
  return text.c_str();
}
}
