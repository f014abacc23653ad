"""The build: what it compiles, what it says where it cannot, and what the library knows about itself."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import setuptools
import torch

import wemoe_ext
from wemoe import info
from wemoe_ext import _library

ROOT = Path(__file__).resolve().parents[1]
CPU_BUILD = torch.version.cuda is None


def configure(monkeypatch, **environment):
    """What setup.py hands to setuptools."""
    for name in ("CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "WEMOE_CUDA", "CFLAGS", "CXX"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    arguments = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: arguments.update(given))
    runpy.run_path(str(ROOT / "setup.py"))
    return arguments


def files(*patterns):
    return {str(path.relative_to(ROOT)) for pattern in patterns for path in (ROOT / "csrc").glob(pattern)}


def test_a_cpu_build_compiles_everything_but_the_cuda_folder(monkeypatch):
    extension = configure(monkeypatch, WEMOE_CUDA="0")["ext_modules"][0]
    assert set(extension.sources) == files("**/*.cpp") - files("cuda/*")
    assert "-Werror" in extension.extra_compile_args["cxx"]


def test_a_cuda_build_needs_a_toolkit_but_no_gpu(monkeypatch, tmp_path):
    for file in ("bin/nvcc", "include/cuda_runtime.h", "include/cusparse.h", "lib64/libcudart.so"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("asked for a GPU"))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "")  # so that what setup.py sets is undone afterwards
    extension = configure(monkeypatch, WEMOE_CUDA="1", CUDA_HOME=str(tmp_path))["ext_modules"][0]
    assert set(extension.sources) == files("**/*.cpp", "**/*.cu")
    macros = dict(extension.define_macros)
    assert macros["WEMOE_CUDA_VERSION"] == '"13.0"'
    assert macros["WEMOE_CUDA_ARCHITECTURES"] == '"7.5;8.0;8.6;9.0;10.0;12.0+PTX"'


@pytest.mark.skipif(not CPU_BUILD, reason="torch is a CUDA build")
def test_cuda_on_a_cpu_torch_is_refused_in_words(monkeypatch):
    with pytest.raises(
        SystemExit, match=r"WEMOE_CUDA=1 needs a CUDA build of torch. Found torch .*, built for CPU only"
    ):
        configure(monkeypatch, WEMOE_CUDA="1")


def test_an_unknown_wish_is_refused_in_words(monkeypatch):
    with pytest.raises(SystemExit, match=r"WEMOE_CUDA must be 0, 1 or auto. Found WEMOE_CUDA=maybe"):
        configure(monkeypatch, WEMOE_CUDA="maybe")


def test_a_missing_compiler_is_told_in_words_and_no_traceback(tmp_path):
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", tmp_path, "--build-temp", tmp_path]
    environment = os.environ | {"CXX": "no-such-compiler", "WEMOE_CUDA": "0"}
    build = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert build.returncode == 1
    assert "error: building wemoe needs a C++20 compiler. Found no `no-such-compiler`" in build.stderr
    assert "Traceback" not in build.stderr


def test_building_without_torch_is_told_in_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    command = configure(monkeypatch)["cmdclass"]["build_ext"](setuptools.Distribution())
    with pytest.raises(SystemExit, match="building wemoe needs torch in the environment that builds"):
        command.run()


@pytest.fixture
def backend():
    spec = importlib.util.spec_from_file_location("backend", ROOT / "build_backend" / "backend.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_backend_builds_against_the_torch_of_the_environment(backend):
    assert Path(backend.find_torch()) == Path(torch.__file__).parents[1]
    assert backend.get_requires_for_build_wheel() == []


def test_the_backend_requires_torch_where_the_environment_has_no_acceptable_one(backend, monkeypatch):
    monkeypatch.setattr(backend, "torch_requirement", lambda: "torch>=99")
    assert backend.find_torch() is None
    assert backend.get_requires_for_build_wheel() == ["torch>=99"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"torch": "2.12.1+cpu", "cuda": None},
            r"was built for torch 2\.12 and torch runs with torch \d+\.\d+",
        ),
        (
            {"torch": torch.__version__, "cuda": "11.8"},
            r"was built for CUDA 11 and torch runs with (no )?CUDA",
        ),
    ],
    ids=["torch", "cuda"],
)
def test_another_torch_than_at_build_time_is_refused_at_import(monkeypatch, tmp_path, record, message):
    path = tmp_path / "_build.json"
    path.write_text(json.dumps(record))
    monkeypatch.setattr(_library, "RECORD", path)
    with pytest.raises(ImportError, match=message + r".*pip install --no-build-isolation"):
        _library.load()


def test_a_source_tree_that_is_not_built_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(_library, "RECORD", tmp_path / "_build.json")
    with pytest.raises(ImportError, match=r"wemoe_ext is not built: .*pip install --no-build-isolation"):
        _library.load()


def test_build_info_tells_what_was_built():
    build = wemoe_ext.build_info()
    assert build["wemoe"] == wemoe_ext.__version__ == version("wemoe")
    assert torch.__version__.startswith(build["torch"])
    assert (build["cuda"] is None) == (build["cuda_architectures"] == [])
    assert build["compiler"].startswith(("gcc", "clang"))
    assert isinstance(build["cpu_instruction_set"], str)


def test_info_reports_the_environment_and_nothing_personal():
    report = info.collect()
    assert report["build"] == wemoe_ext.build_info()
    assert report["packages"]["torch"] == torch.__version__
    assert report["cpu"]["threads"] == torch.get_num_threads()
    text = info.format_report(report)
    assert json.loads(json.dumps(report)) == report
    assert all(name in text for name in ("transformers", "cpu_instruction_set", "devices"))
    assert str(Path.home()) not in text


@pytest.mark.slow
def test_an_isolated_wheel_from_the_sdist_works_with_the_torch_of_its_environment(tmp_path):
    """The environment has the oldest torch that is supported; pip alone would build against the newest."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command):
        return subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    make_sdist = f"import os, backend; os.chdir({str(ROOT)!r}); print(backend.build_sdist({str(tmp_path)!r}))"
    environment["PYTHONPATH"] = str(ROOT / "build_backend")
    sdist = run(sys.executable, "-c", make_sdist).splitlines()[-1]
    del environment["PYTHONPATH"]

    run(sys.executable, "-m", "venv", "env")
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "torch==2.13.0", "numpy")
    run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "wheels", sdist)
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", *(tmp_path / "wheels").glob("wemoe-*.whl"))
    program = "import torch, wemoe_ext; print(wemoe_ext.build_info()['torch'], torch.__version__)"
    built, running = run(python, "-c", program).split()
    assert built == "2.13.0"
    assert running.startswith("2.13.0")
