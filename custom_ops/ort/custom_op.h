// The callbacks that make ai.qfa::QuantFlashAttention known to one copy of ONNX Runtime.
#ifndef QFA_ORT_CUSTOM_OP_H_
#define QFA_ORT_CUSTOM_OP_H_

#include <memory>
#include <vector>

#include "ort/ort_abi.h"

namespace qfa::ort {

// What differs between the operators that are registered under the one name: see make_custom_ops.
struct CacheTypes {
  OrtElementType past;     // of past_key
  OrtElementType present;  // of present_key and present_value; undefined: one of the open inputs'
  OrtElementType scale;    // of past_key_scale, present_key_scale and present_value_scale
};

// Lives as long as the process: sessions keep pointers to it.
struct CustomOp : OrtCustomOp {
  CustomOp(const OrtSlot* table, CacheTypes cache_types);

  OrtApi api;
  CacheTypes types;
};

// The runtime gives an output of open type the type of the last open input, which is not what a
// cache needs: its codes have one type, its scales another. So the operator is registered once for
// each pair of them, and the runtime takes the first that fits the inputs of a node.
std::vector<std::unique_ptr<CustomOp>> make_custom_ops(const OrtSlot* table);

}  // namespace qfa::ort

#endif  // QFA_ORT_CUSTOM_OP_H_
