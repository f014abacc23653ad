#include "static_shared.h"

#include <link.h>

namespace wemoe::emulator {
namespace {

thread_local volatile unsigned char anchor;  // tells this library's variables from others'

int find_anchor(dl_phdr_info* module, size_t, void* result) {
  for (int i = 0; i < module->dlpi_phnum; i++) {
    const auto& header = module->dlpi_phdr[i];
    if (header.p_type != PT_TLS || module->dlpi_tls_data == nullptr) continue;
    const Span span{static_cast<unsigned char*>(module->dlpi_tls_data), header.p_memsz};
    if (!span.contains(const_cast<unsigned char*>(&anchor), 1)) continue;
    *static_cast<Span*>(result) = span;
    return 1;
  }
  return 0;
}

}  // namespace

Span static_shared() {
  static Span span = [] {
    Span found{nullptr, 0};
    anchor = 0;  // the variables get their memory when the first one is touched
    dl_iterate_phdr(find_anchor, &found);
    return found;
  }();
  return span;
}

}  // namespace wemoe::emulator
