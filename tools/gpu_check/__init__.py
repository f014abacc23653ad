"""`make gpu-check`: everything that only a GPU can tell of the CUDA kernels, in one run and one report."""
