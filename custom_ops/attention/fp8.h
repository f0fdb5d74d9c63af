// The 8-bit floats of a request: those of its cache, or those that it computes in.
#ifndef QFA_ATTENTION_FP8_H_
#define QFA_ATTENTION_FP8_H_

#include "kernels/kernels.h"
#include "qfa/qfa.h"

namespace qfa {

// Kernels of one format; null without one.
struct Fp8 {
  load_e4m3_row_fn* load;
  quantize_e4m3_row_fn* quantize;
};

inline Fp8 fp8_of(const qfa_attention& a, const Kernels& kernels) {
  if (a.kv_format == QFA_KV_FP8E4M3 || a.compute == QFA_COMPUTE_FP8E4M3) {
    return {kernels.load_e4m3_row, kernels.quantize_e4m3_row};
  }
  if (a.kv_format == QFA_KV_FP8E5M2 || a.compute == QFA_COMPUTE_FP8E5M2) {
    return {kernels.load_e5m2_row, kernels.quantize_e5m2_row};
  }
  return {nullptr, nullptr};
}

}  // namespace qfa

#endif  // QFA_ATTENTION_FP8_H_
