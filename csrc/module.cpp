// The Python module wemoe_ext._C: what the library says about itself. Tensor ops are registered in ops.cpp.

#include <pybind11/pybind11.h>
#include <torch/version.h>

#include "cpu/isa.h"

namespace py = pybind11;

namespace {

py::object cuda_version() {
#ifdef WEMOE_CUDA_VERSION
  return py::str(WEMOE_CUDA_VERSION);
#else
  return py::none();
#endif
}

py::list cuda_architectures() {
#ifdef WEMOE_CUDA_ARCHITECTURES
  return py::str(WEMOE_CUDA_ARCHITECTURES).attr("split")(";");
#else
  return py::list();
#endif
}

const char* compiler() {
#ifdef __clang__
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

py::dict build_info() {
  py::dict info;
  info["wemoe"] = WEMOE_VERSION;
  info["torch"] = TORCH_VERSION;
  info["cuda"] = cuda_version();
  info["cuda_architectures"] = cuda_architectures();
  info["compiler"] = compiler();
  info["cpu_instruction_set"] = wemoe::cpu::active_isa();
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled operators of wemoe; importing it registers them.";
  m.def("build_info", &build_info,
        "What the library was built with, and the CPU instruction set that it uses.");
}
