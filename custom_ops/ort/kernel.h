// One node of a session: what was settled when the session was created, and the call itself.
#ifndef QFA_ORT_KERNEL_H_
#define QFA_ORT_KERNEL_H_

#include <memory>
#include <string>

#include "ort/opspec.h"
#include "ort/ort_abi.h"
#include "ort/tensor_view.h"
#include "qfa/qfa.h"

namespace qfa::ort {

class Kernel {
 public:
  // Validates the node; throws Failure.
  Kernel(const OrtApi& api, const OrtKernelInfo* info);

  // Computes the node's output. Const: sessions call it from several threads at a time. Throws
  // Failure.
  void compute(OrtKernelContext* context) const;

  const OrtApi& api() const { return api_; }

 private:
  using Views = TensorView[kInputCount];

  void read_types(const OrtKernelInfo* info);
  void validate_static_scales(const OrtKernelInfo* info) const;
  void describe(const Views& views, qfa_attention* attention) const;
  void run(OrtKernelContext* context, const qfa_attention& attention) const;
  bool is_static() const { return attributes_.scale_mode == "static"; }

  const OrtApi& api_;
  std::string place_;  // "ai.qfa::QuantFlashAttention node 'name'"
  Attributes attributes_;
  OrtElementType types_[kInputCount] = {};
  qfa_isa isa_ = QFA_ISA_AUTO;
  std::unique_ptr<OrtMemoryInfo, void (*)(OrtMemoryInfo*)> memory_;
};

}  // namespace qfa::ort

#endif  // QFA_ORT_KERNEL_H_
