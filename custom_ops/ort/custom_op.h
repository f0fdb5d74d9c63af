// The callbacks that make ai.qfa::QuantFlashAttention known to one copy of ONNX Runtime.
#ifndef QFA_ORT_CUSTOM_OP_H_
#define QFA_ORT_CUSTOM_OP_H_

#include "ort/ort_abi.h"

namespace qfa::ort {

// Lives as long as the process: sessions keep pointers to it.
struct CustomOp : OrtCustomOp {
  explicit CustomOp(const OrtSlot* table);

  OrtApi api;
};

}  // namespace qfa::ort

#endif  // QFA_ORT_CUSTOM_OP_H_
