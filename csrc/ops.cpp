// Every op of the namespace `wemoe`. R routes of M rows, T tasks, D inputs, F outputs.
// A device implements them in a folder of its own; csrc/composite serves those that do not.

#include <torch/library.h>

TORCH_LIBRARY(wemoe, m) {
  m.set_python_module("wemoe_ext.ops");
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};

  // Weight and task vectors may be packed (packed.h): [F / 16, D, 16] and [F / 16, D, T, 16].
  m.def(
      "routed_linear("
      "Tensor x, "                // [R, M, D]
      "Tensor weight, "           // [F, D]
      "Tensor task_vectors, "     // [T, F, D]
      "Tensor routing_weights, "  // [R, T]
      "Tensor? bias, "            // [F]
      "Tensor? task_biases"       // [T, F]
      ") -> Tensor",              // [R, M, F]
      tags);

  // A gradient that output_mask leaves out comes back as an empty tensor.
  m.def(
      "routed_linear_backward("
      "Tensor grad, "             // [R, M, F]
      "Tensor x, "                // [R, M, D]
      "Tensor weight, "           // [F, D]
      "Tensor task_vectors, "     // [T, F, D]
      "Tensor routing_weights, "  // [R, T]
      "Tensor? task_biases, "     // [T, F]
      "bool[2] output_mask"
      ") -> (Tensor, Tensor)",  // [R, M, D] and [R, T], of x and of routing_weights
      tags);

  // routed_linear of task vectors that are mostly zero, in place of which their bits are kept.
  m.def(
      "routed_linear_sparse("
      "Tensor x, "                // [R, M, D]
      "Tensor weight, "           // [F / 16, D, 16], packed
      "Tensor masks, "            // [F / 16, D, T] int16, a bit for each output of a line
      "Tensor values, "           // [V], one for each bit that is set, and at least 16 more
      "Tensor offsets, "          // [F / 16, D / 32 rounded up] int64, where the values of 32 inputs start
      "Tensor routing_weights, "  // [R, T]
      "Tensor? bias, "            // [F]
      "Tensor? task_biases"       // [T, F]
      ") -> Tensor",              // [R, M, F]
      tags);

  m.def(
      "routed_linear_sparse_backward("
      "Tensor grad, "             // [R, M, F]
      "Tensor x, "                // [R, M, D]
      "Tensor weight, "           // [F / 16, D, 16]
      "Tensor masks, "            // [F / 16, D, T]
      "Tensor values, "           // [V]
      "Tensor offsets, "          // [F / 16, D / 32 rounded up]
      "Tensor routing_weights, "  // [R, T]
      "Tensor? task_biases, "     // [T, F]
      "bool[2] output_mask"
      ") -> (Tensor, Tensor)",  // [R, M, D] and [R, T]
      tags);

  m.def(
      "merge_weights("
      "Tensor base, "           // [...]
      "Tensor task_vectors, "   // [T, ...]
      "Tensor routing_weights"  // [R, T]
      ") -> Tensor",            // [R, ...]
      tags);

  m.def(
      "merge_weights_backward("
      "Tensor grad, "        // [R, ...]
      "Tensor task_vectors"  // [T, ...]
      ") -> Tensor",         // [R, T], of routing_weights, in the type sums are taken in
      tags);
}
