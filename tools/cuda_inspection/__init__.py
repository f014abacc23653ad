"""What the compiler made of the CUDA kernels, held against what they were written for. No GPU is needed."""
