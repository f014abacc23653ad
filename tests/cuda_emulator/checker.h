// The checked build: what the emulator tells the checker. In the plain build nobody calls it.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "runtime.h"

namespace wemoe::emulator {

#ifdef WEMOE_CHECKED
constexpr bool CHECKED = true;
#else
constexpr bool CHECKED = false;
#endif

// Where an access is written: a call of the emulator knows its line, a plain load or store its address.
struct Site {
  const char* file = nullptr;
  uint32_t line = 0;
  const void* address = nullptr;
};
inline Site site_of(Location location) { return {location.file_name(), location.line(), nullptr}; }

std::string place_of(Site site);

void check_launch();
void check_block();
void check_barrier();
void check_collective(int warp, bool orders_memory);
void check_end_of_block();

void check_copy_issued(void* shared, const void* global, bool valid, Site site);
void check_copy_done(void* shared, Site site);
void check_access(const void* address, int bytes, bool write, Site site);

void track(const void* start, size_t bytes, const char* name, bool writable);
void forget();           // what was tracked and what was found
std::string findings();  // lines of fields that are separated by tabs

}  // namespace wemoe::emulator
