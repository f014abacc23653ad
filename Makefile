# Everything runs in .venv, made on first use and brought up to date when the files that it depends on change.
# Variables: ARGS go to quickstart, bench, bench-check, gpu-check and test; PROCESSES run tests side by side; PYTHON
# makes the environment; MAX_JOBS limits the compiler.

PYTHON ?= python3
PROCESSES ?= 2
ARGS ?=

BIN := .venv/bin
PIP_INSTALL := -m pip install --quiet --constraint requirements/constraints.txt
NATIVE := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
EMULATOR := $(wildcard tests/cuda_emulator/*.cpp tests/cuda_emulator/*.h tests/native/*.cu tests/native/toys/*) $(wildcard tools/cuda_inspection/*.c* tools/cuda_inspection/*.h)
BUILD := pyproject.toml setup.py build_backend/backend.py $(NATIVE)

.PHONY: help quickstart test lint format bench bench-check gpu-check ci-native ci-peers sanitize imitate clang cuda-build cuda-emulate cuda-inspect clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/\1\t\2/p' Makefile | expand -t 14

quickstart: .venv/.installed  ## install, build and run `wemoe quickstart $(ARGS)`
	$(BIN)/wemoe quickstart $(ARGS)

test: lint  ## linters, types and all tests but the long ones
	$(BIN)/pytest -m "not slow and not peers and not emulated and not gpu" --numprocesses $(PROCESSES) --dist loadfile --benchmark-disable $(ARGS)

lint: .venv/.dev  ## ruff, mypy and clang-format, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(NATIVE) $(EMULATOR)

format: .venv/.dev  ## let ruff and clang-format rewrite what they can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE) $(EMULATOR)

BENCH := $(BIN)/pytest benchmarks -o python_files='bench_*.py' --benchmark-quiet

bench: .venv/.dev  ## ops, layer and whole models against plain PyTorch; ARGS=--json=FILE keeps what was measured
	$(BENCH) $(ARGS)

bench-check: .venv/.dev  ## fail on a slowdown against benchmarks/baseline.json; ARGS=--update records this machine
	@mkdir -p build
	$(BENCH) -m guard --json=build/bench-check.json
	$(BIN)/python benchmarks/check.py build/bench-check.json $(ARGS)

ci-native: sanitize imitate clang cuda-build cuda-inspect cuda-emulate .venv/.dev  ## other compilers and flags, the CUDA core, every slow test
	$(BIN)/pytest -m "slow and not emulated" --durations=10

ci-peers: .venv/.dev build/peers/.installed build/open_clip/.installed build/mergekit/.installed  ## comparisons with other packages
	PYTHONPATH=build/peers $(BIN)/python -W ignore -c "import fusion_bench.models.we_moe, peft.utils.merge_utils"  # or its tests would be skipped
	PYTHONPATH=build/peers $(BIN)/pytest -m peers --deselect tests/peers/test_open_clip.py --deselect tests/peers/test_mergekit.py $(ARGS)
	PYTHONPATH=build/open_clip $(BIN)/pytest -m peers tests/peers/test_open_clip.py $(ARGS)
	PYTHONPATH=build/mergekit $(BIN)/python -W ignore -c "import mergekit.merge"
	PYTHONPATH=build/mergekit $(BIN)/pytest -m peers tests/peers/test_mergekit.py $(ARGS)

# --- the environment -----------------------------------------------------------------------------------------------

.venv/.base: requirements/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP_INSTALL) --upgrade pip setuptools ninja packaging torch
	@touch $@

.venv/.installed: .venv/.base $(BUILD)
	$(BIN)/python $(PIP_INSTALL) --no-build-isolation --editable .
	@touch $@

.venv/.dev: .venv/.installed
	$(BIN)/python $(PIP_INSTALL) --group dev
	@touch $@

build/%/.installed: requirements/%.txt .venv/.base
	rm -rf build/$*
	$(BIN)/python -m pip install --quiet --no-deps --target build/$* --requirement requirements/$*.txt
	@touch $@

# --- other builds --------------------------------------------------------------------------------------------------

OP_TESTS := tests/test_routed_linear.py tests/test_packing.py tests/test_merge_weights.py

# $(call build_ops,FOLDER,CFLAGS,LDFLAGS): wemoe_ext with other flags, beside the one that is installed
build_ops = CFLAGS="$(2)" LDFLAGS="$(3)" WEMOE_CUDA=0 \
    $(BIN)/python setup.py --quiet build_ext --build-temp build/$(1)/temp --build-lib build/$(1)/lib && \
    cp wemoe_ext/*.py build/$(1)/lib/wemoe_ext/

SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined

sanitize: .venv/.dev  ## the operators' tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(call build_ops,sanitize,-O1 -g -fno-omit-frame-pointer -Wno-error=maybe-uninitialized $(SANITIZE),$(SANITIZE))
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
	    UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=build/sanitize/lib \
	    $(BIN)/pytest $(OP_TESTS) tests/test_instruction_sets.py -p no:cacheprovider

imitate: .venv/.dev  ## the operators' tests with what AVX-512 and its bf16 run, imitated on a machine that has AVX2
	$(call build_ops,imitate,-O1 -DWEMOE_IMITATE_AVX512)
	WEMOE_CPU_ISA=avx2 PYTHONPATH=build/imitate/lib $(BIN)/pytest $(OP_TESTS) -m "not slow" -p no:cacheprovider

clang: build/clang/.installed  ## the plain kernels through another compiler, for this processor and for ARM
	for target in x86_64 aarch64; do \
	    PYTHONPATH=build/clang $(BIN)/python -m ziglang c++ -target $$target-linux-gnu -std=c++20 -O2 -Wall -Wextra \
	        -Werror -Icsrc -c csrc/cpu/kernels_baseline.cpp -o build/clang/$$target.o || exit 1; \
	done

cuda-build: .venv-cuda/.base  ## compile for CUDA against the newest torch, check what was registered, and test the CPU's operators there
	WEMOE_CUDA=1 .venv-cuda/bin/python -m pip install --quiet --no-build-isolation --no-deps .
	.venv-cuda/bin/python -P tools/check_cuda_build.py
	.venv-cuda/bin/python -P -m pytest $(OP_TESTS) -m "not slow" -p no:cacheprovider

gpu-check: .venv-cuda/.base  ## whatever needs a GPU, on a machine that has one, and one report: build/gpu-check/report.md
	PYTHONPATH=tools .venv-cuda/bin/python -P -m gpu_check $(ARGS)

cuda-inspect: .venv-cuda/.base  ## what the compiler made of the CUDA kernels: spills, registers, instructions, occupancy
	.venv-cuda/bin/python tools/inspect_cuda.py $(ARGS)

.venv-cuda/.base: requirements/cuda.txt
	$(PYTHON) -m venv .venv-cuda
	.venv-cuda/bin/python -m pip install --quiet --upgrade --requirement requirements/cuda.txt
	@touch $@

cuda-emulate: .venv/.dev  ## run the CUDA kernels on the host, every thread of them, and check each of their accesses
	$(BIN)/pytest -m emulated --numprocesses $(PROCESSES) --dist loadfile --durations=10 $(ARGS)

clean:  ## remove builds and caches; environments and results stay
	rm -rf build dist *.egg-info python/*.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks
	rm -f wemoe_ext/*.so wemoe_ext/_build.json .venv/.installed .venv/.dev
