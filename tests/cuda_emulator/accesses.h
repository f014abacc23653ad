// Counts what each warp instruction costs: wavefronts of shared memory, sectors of global memory.

#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "checker.h"

namespace wemoe::emulator {

enum class Kind : int { SHARED_LOAD, SHARED_STORE, GLOBAL_LOAD, GLOBAL_STORE };

struct Traffic {
  uint64_t read = 0, written = 0;  // bytes, each counted once for a warp's instruction
};

class Accesses {
 public:
  // The running thread's. Traffic is null for shared memory.
  void add(Site site, Kind kind, const void* address, int bytes, int thread, Traffic* traffic);

  // Lanes that ran the same instruction equally often since the last end ran it together.
  void end_of_instructions(int warp);

  std::string lines() const;

 private:
  // What one warp's instruction touches.
  struct Instruction {
    uintptr_t addresses[WARP];
    uint32_t lanes = 0;
    Traffic* traffic;
  };
  struct Pending {
    uint32_t times[WARP] = {};  // that each lane ran it
    std::vector<Instruction> instructions;
  };
  struct Counts {
    Site site;
    Kind kind;
    int bytes;
    uint64_t instructions = 0, transactions = 0, ideal = 0;
  };
  struct Key {
    const void* place;
    uint32_t line;
    int kind_and_bytes;
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    size_t operator()(const Key& key) const;
  };

  size_t find_counts(Site site, Kind kind, int bytes);
  static void count(Counts& counts, const Instruction& instruction);
  static void count_shared(Counts& counts, const Instruction& instruction);
  static void count_global(Counts& counts, const Instruction& instruction);

  std::vector<Counts> counts_;
  std::unordered_map<Key, size_t, Hash> index_;
  std::vector<Pending> pending_[MAX_WARPS];  // by index of counts_
  std::vector<size_t> touched_[MAX_WARPS];
};

}  // namespace wemoe::emulator
