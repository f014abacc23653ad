"""What the CUDA kernels should cost, counted on paper. Nothing here was measured."""
