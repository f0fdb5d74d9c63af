// Elements of tensors: their size, and single values widened to float32.
#ifndef QFA_ATTENTION_DTYPE_H_
#define QFA_ATTENTION_DTYPE_H_

#include <stdint.h>
#include <string.h>

#include "kernels/reference/half.h"
#include "qfa/qfa.h"

namespace qfa {

constexpr bool is_dtype(qfa_dtype dtype) { return dtype >= QFA_FLOAT32 && dtype <= QFA_BFLOAT16; }

constexpr int64_t element_size(qfa_dtype dtype) { return dtype == QFA_FLOAT32 ? 4 : 2; }

// The element `index` behind `base`, which may be unaligned.
inline float element_at(const void* base, qfa_dtype dtype, int64_t index) {
  const char* element = static_cast<const char*>(base) + index * element_size(dtype);
  if (dtype == QFA_FLOAT32) {
    float value;
    memcpy(&value, element, 4);
    return value;
  }
  uint16_t bits;
  memcpy(&bits, element, 2);
  return dtype == QFA_FLOAT16 ? float_from_half(bits) : float_from_bfloat(bits);
}

}  // namespace qfa

#endif  // QFA_ATTENTION_DTYPE_H_
