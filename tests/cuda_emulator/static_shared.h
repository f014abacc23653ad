// Where the library's static __shared__ variables lie: they are its only thread-local ones.

#pragma once

#include <cstddef>

namespace wemoe::emulator {

struct Span {
  unsigned char* start;
  size_t bytes;

  bool contains(const void* address, size_t size) const {
    const auto* byte = static_cast<const unsigned char*>(address);
    return byte >= start && byte + size <= start + bytes;
  }
};

Span static_shared();

}  // namespace wemoe::emulator
