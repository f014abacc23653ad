#include "accesses.h"

#include <algorithm>
#include <sstream>

namespace wemoe::emulator {
namespace {

constexpr uintptr_t BANKS = 32, WORD_BYTES = 4, SECTOR_BYTES = 32;

}  // namespace

size_t Accesses::Hash::operator()(const Key& key) const {
  const auto place = reinterpret_cast<uintptr_t>(key.place);
  return (place ^ static_cast<uintptr_t>(key.line) << 40 ^ static_cast<uintptr_t>(key.kind_and_bytes) << 56) *
             0x9E3779B97F4A7C15u >>
         16;
}

size_t Accesses::find_counts(Site site, Kind kind, int bytes) {
  const void* place = site.file != nullptr ? static_cast<const void*>(site.file) : site.address;
  const Key key{place, site.line, static_cast<int>(kind) * 32 + bytes};
  const auto [found, added] = index_.try_emplace(key, counts_.size());
  if (added) counts_.push_back({site, kind, bytes});
  return found->second;
}

void Accesses::add(Site site, Kind kind, const void* address, int bytes, int thread, Traffic* traffic) {
  const size_t index = find_counts(site, kind, bytes);
  const int warp = thread / WARP, lane = thread % WARP;
  if (pending_[warp].size() <= index) pending_[warp].resize(index + 1);
  Pending& pending = pending_[warp][index];
  if (pending.instructions.empty()) touched_[warp].push_back(index);
  const uint32_t time = pending.times[lane]++;
  if (pending.instructions.size() <= time) pending.instructions.resize(time + 1);
  Instruction& instruction = pending.instructions[time];
  instruction.addresses[lane] = reinterpret_cast<uintptr_t>(address);
  instruction.lanes |= 1u << lane;
  instruction.traffic = traffic;
}

void Accesses::end_of_instructions(int warp) {
  for (const size_t index : touched_[warp]) {
    Pending& pending = pending_[warp][index];
    for (const Instruction& instruction : pending.instructions) {
      count(counts_[index], instruction);
    }
    pending.instructions.clear();
    std::fill(std::begin(pending.times), std::end(pending.times), 0);
  }
  touched_[warp].clear();
}

void Accesses::count(Counts& counts, const Instruction& instruction) {
  counts.instructions++;
  const bool shared = counts.kind == Kind::SHARED_LOAD || counts.kind == Kind::SHARED_STORE;
  shared ? count_shared(counts, instruction) : count_global(counts, instruction);
}

// A wavefront answers one word of each bank; 8 bytes a lane take half a warp at a time, 16 bytes a quarter.
void Accesses::count_shared(Counts& counts, const Instruction& instruction) {
  const int parts = counts.bytes == 16 ? 4 : counts.bytes == 8 ? 2 : 1, lanes = WARP / parts;
  for (int part = 0; part < parts; part++) {
    uintptr_t words[2 * BANKS];
    size_t size = 0;
    for (int lane = part * lanes; lane < (part + 1) * lanes; lane++) {
      if (!(instruction.lanes >> lane & 1)) continue;
      const uintptr_t last = (instruction.addresses[lane] + counts.bytes - 1) / WORD_BYTES;
      for (uintptr_t word = instruction.addresses[lane] / WORD_BYTES; word <= last; word++) {
        words[size++] = word;
      }
    }
    if (size == 0) continue;
    std::sort(words, words + size);
    size = static_cast<size_t>(std::unique(words, words + size) - words);
    uint64_t of_bank[BANKS] = {};
    for (size_t i = 0; i < size; i++) {
      of_bank[words[i] % BANKS]++;
    }
    counts.transactions += *std::max_element(of_bank, of_bank + BANKS);
    counts.ideal++;
  }
}

// Ideal are as many sectors as the bytes, each counted once, would fill.
void Accesses::count_global(Counts& counts, const Instruction& instruction) {
  uintptr_t addresses[WARP];
  int size = 0;
  for (int lane = 0; lane < WARP; lane++) {
    if (instruction.lanes >> lane & 1) addresses[size++] = instruction.addresses[lane];
  }
  std::sort(addresses, addresses + size);
  uint64_t sectors = 0, bytes = 0;
  uintptr_t next_byte = 0, next_sector = 0;
  for (int i = 0; i < size; i++) {
    const uintptr_t start = std::max(addresses[i], next_byte), end = addresses[i] + counts.bytes;
    if (start >= end) continue;
    const uintptr_t first = std::max(start / SECTOR_BYTES, next_sector), last = (end - 1) / SECTOR_BYTES;
    sectors += last + 1 - std::min(first, last + 1);
    bytes += end - start;
    next_byte = end;
    next_sector = last + 1;
  }
  counts.transactions += sectors;
  counts.ideal += (bytes + SECTOR_BYTES - 1) / SECTOR_BYTES;
  (counts.kind == Kind::GLOBAL_LOAD ? instruction.traffic->read : instruction.traffic->written) += bytes;
}

std::string Accesses::lines() const {
  constexpr const char* NAMES[] = {"shared load", "shared store", "global load", "global store"};
  std::ostringstream text;
  for (const Counts& counts : counts_) {
    text << "access\t" << place_of(counts.site) << '\t' << NAMES[static_cast<int>(counts.kind)] << '\t'
         << counts.bytes << '\t' << counts.instructions << '\t' << counts.transactions << '\t' << counts.ideal
         << '\n';
  }
  return text.str();
}

}  // namespace wemoe::emulator
