"""Builds `wemoe_ext._C`: for CPU always, for CUDA too when torch and a toolkit allow it.

`WEMOE_CUDA=0|1|auto` decides about CUDA (auto, the default: if torch is a CUDA build and a toolkit is found;
a visible GPU is never asked for). `TORCH_CUDA_ARCH_LIST` names its architectures, `MAX_JOBS` limits how many
files compile at once, and `CFLAGS` replaces the optimisation flags. What does not compile (metadata, sdist)
works without torch.
"""

import json
import os
import shutil
import sys
import sysconfig
import tomllib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    import torch
    from torch.utils import cpp_extension
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    torch = None

ROOT = Path(__file__).resolve().parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def sources(*patterns: str) -> list[str]:
    """Files of csrc/ by rule, relative to the root: what lies in a device's folder belongs to that device."""
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in (ROOT / "csrc").glob(pattern))


CPU_SOURCES = sources("*.cpp", "cpu/*.cpp", "composite/*.cpp")
CUDA_SOURCES = sources("cuda/*.cpp", "cuda/*.cu")


def find_cuda_home() -> Path | None:
    """The first toolkit with a compiler and headers: from the environment, PATH, its usual place, pip."""
    nvcc = shutil.which("nvcc")
    candidates = [
        os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"),
        nvcc and Path(nvcc).resolve().parents[1],
        "/usr/local/cuda",
        *sorted((Path(torch.__file__).parents[1] / "nvidia").glob("cu[0-9]*")),
    ]
    for home in map(Path, filter(None, candidates)):
        # a wrapper script in /usr/local/bin has a compiler beside it and no headers
        if (home / "bin" / "nvcc").exists() and (home / "include" / "cuda_runtime.h").exists():
            return home
    return None


def choose_cuda_home() -> Path | None:
    """The toolkit to build with, or None for a CPU build, as `WEMOE_CUDA` wants it."""
    wanted = os.environ.get("WEMOE_CUDA", "auto").lower()
    if wanted not in ("0", "1", "auto"):
        sys.exit(f"error: WEMOE_CUDA must be 0, 1 or auto. Found WEMOE_CUDA={wanted}.")
    if wanted == "0":
        return None
    if torch.version.cuda is None:
        if wanted == "1":
            sys.exit(
                f"error: WEMOE_CUDA=1 needs a CUDA build of torch. Found torch {torch.__version__}, built "
                "for CPU only. Install a CUDA build of torch, or build with WEMOE_CUDA=0."
            )
        return None
    home = find_cuda_home()
    if home is None and wanted == "1":
        sys.exit(
            f"error: WEMOE_CUDA=1 needs the CUDA {torch.version.cuda} toolkit. Found none with bin/nvcc and "
            "include/cuda_runtime.h: set CUDA_HOME to one, or build with WEMOE_CUDA=0."
        )
    return home


def default_architectures() -> str:
    """What torch itself is built for, from Turing on, with PTX for what comes after."""
    capabilities = [75, 80, 86, 90]
    if tuple(map(int, torch.version.cuda.split(".")[:2])) >= (12, 8):
        capabilities += [100, 120]
    return ";".join(f"{capability / 10:.1f}" for capability in capabilities) + "+PTX"


def check_tools() -> None:
    """Ends with one clear sentence where a tool is missing, before ninja would end in a traceback."""
    if torch is None:
        sys.exit(
            "error: building wemoe needs torch in the environment that builds. Install torch first, or let "
            "pip provide it (`pip install .`, without --no-build-isolation)."
        )
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        sys.exit(
            f"error: building wemoe needs a C++20 compiler. Found no `{compiler}`: install one (for example "
            "the package g++ or build-essential), or name yours in CXX."
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        sys.exit(
            f"error: building wemoe needs the headers of Python {sysconfig.get_python_version()}. "
            f"Found no {header}: install the package python3-dev or its like."
        )


def define_string(name: str, value: str) -> tuple[str, str]:
    """A macro whose value is a string literal."""
    return name, f'"{value}"'


def make_extension(cuda_home: Path | None) -> Extension:
    """The extension with its flags: warnings are errors in our sources, and silent in torch's headers."""
    optimise = [] if os.environ.get("CFLAGS") else ["-O3", "-g0"]
    cxx = ["-std=c++20", *optimise, "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    if sys.platform == "linux":
        cxx.append("-fopenmp")  # at::parallel_for; linked by torch, so that there is one runtime
    macros = [define_string("WEMOE_VERSION", VERSION)]
    include_dirs = [str(ROOT / "csrc")]
    if cuda_home is None:
        extension = cpp_extension.CppExtension("wemoe_ext._C", CPU_SOURCES, extra_compile_args={"cxx": cxx})
    else:
        # torch would otherwise ask the visible GPU, and fail where there is none
        architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or default_architectures()
        os.environ["TORCH_CUDA_ARCH_LIST"] = architectures
        cpp_extension.CUDA_HOME = str(cuda_home)
        macros += [
            define_string("WEMOE_CUDA_VERSION", torch.version.cuda),
            define_string("WEMOE_CUDA_ARCHITECTURES", architectures.replace(" ", ";")),
        ]
        extension = cpp_extension.CUDAExtension(
            "wemoe_ext._C",
            CPU_SOURCES + CUDA_SOURCES,
            extra_compile_args={"cxx": cxx, "nvcc": ["-std=c++20", "-O3", "-lineinfo"]},
        )
        use_pip_toolkit(extension, cuda_home)
    system = [flag for path in extension.include_dirs for flag in ("-isystem", path)]
    for flags in extension.extra_compile_args.values():
        flags += system
    extension.include_dirs = include_dirs
    extension.define_macros = macros
    return extension


def use_pip_toolkit(extension: Extension, cuda_home: Path) -> None:
    """Takes what the toolkit lacks (math headers, libcudart.so) from the packages that torch depends on."""
    if not (cuda_home / "include" / "cusparse.h").exists():
        packages = Path(torch.__file__).parents[1] / "nvidia"
        headers = ("cusparse.h", "cublas_v2.h", "cusolverDn.h")
        found = {str(path.parent) for header in headers for path in packages.glob(f"*/include/{header}")}
        extension.include_dirs += sorted(found)  # last: the toolkit's own headers come first
    if not any((cuda_home / folder / "libcudart.so").exists() for folder in ("lib64", "lib")):
        extension.libraries.remove("cudart")
        extension.extra_link_args += [str(path) for path in (cuda_home / "lib").glob("libcudart.so.*")]


class BuildExtension(build_ext if torch is None else cpp_extension.BuildExtension):
    """Checks the tools first, and afterwards records beside the library what it was built with."""

    def initialize_options(self) -> None:
        """Keeps the objects of each Python and torch apart, and over installs: only what changed is compiled."""
        super().initialize_options()
        if torch is not None:
            self.build_temp = str(ROOT / "build" / f"{sys.implementation.cache_tag}-torch-{torch.__version__}")

    def run(self) -> None:
        """Builds; the record is what the import checks the running torch against."""
        check_tools()
        self.force = True  # a library that was linked for another torch may be newer than the sources
        super().run()
        record = {
            "wemoe": VERSION,
            "torch": torch.__version__,
            "cuda": torch.version.cuda if CUDA_HOME else None,
        }
        folder = Path(self.get_ext_fullpath("wemoe_ext._C")).parent
        (folder / "_build.json").write_text(json.dumps(record) + "\n")


CUDA_HOME = torch and choose_cuda_home()

setup(
    ext_modules=[make_extension(CUDA_HOME) if torch else Extension("wemoe_ext._C", CPU_SOURCES)],
    cmdclass={"build_ext": BuildExtension},
)
