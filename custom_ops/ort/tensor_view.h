// Inputs of one call, seen through the runtime's tensors.
#ifndef QFA_ORT_TENSOR_VIEW_H_
#define QFA_ORT_TENSOR_VIEW_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "ort/ort_abi.h"
#include "qfa/qfa.h"

namespace qfa::ort {

// A dense tensor on the CPU; `data` is null and `present` false when an optional input was left
// out.
struct TensorView {
  static constexpr size_t kMaxRank = 8;

  bool present = false;
  const void* data = nullptr;
  size_t rank = 0;
  int64_t extents[kMaxRank] = {};

  int64_t count() const;
  std::string shape() const;  // "(2, 9, 16, 64)"
};

// Throws Failure when the rank is beyond kMaxRank.
TensorView view_tensor(const OrtApi& api, const OrtValue* value);

qfa_dtype to_dtype(OrtElementType type);

// Strides that broadcast `view` to (B, H, S, T) = extents. Throws Failure that shows both shapes.
qfa_mask broadcast(const char* name, const TensorView& view, const int64_t (&extents)[4]);

}  // namespace qfa::ort

#endif  // QFA_ORT_TENSOR_VIEW_H_
