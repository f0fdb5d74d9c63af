// One node of a session: what was settled when the session was created, and the call itself.
#ifndef QFA_ORT_KERNEL_H_
#define QFA_ORT_KERNEL_H_

#include <memory>
#include <string>

#include "ort/cache.h"
#include "ort/opspec.h"
#include "ort/ort_abi.h"
#include "ort/tensor_view.h"
#include "qfa/qfa.h"

namespace qfa::ort {

class Kernel {
 public:
  // Validates the node; throws Failure.
  Kernel(const OrtApi& api, const OrtKernelInfo* info);

  // Computes the node's outputs. Const: sessions call it from several threads at a time. Throws
  // Failure.
  void compute(OrtKernelContext* context) const;

  const OrtApi& api() const { return api_; }

 private:
  void read_types(const OrtKernelInfo* info);
  TensorView constant_input(const OrtKernelInfo* info, InputIndex input) const;  // else absent
  void validate_static_scales(const OrtKernelInfo* info) const;
  void validate_channel_scales(const OrtKernelInfo* info) const;
  void* allocate(OrtKernelContext* context, OutputIndex output, const int64_t* extents,
                 size_t rank) const;
  void add_outputs(OrtKernelContext* context, size_t query_rank, qfa_attention* attention) const;
  qfa_target add_present(OrtKernelContext* context, const CacheSide& side, int64_t channels,
                         const qfa_attention& attention) const;
  qfa_codes add_codes(OrtKernelContext* context, const CacheSide& side, int64_t channels,
                      const qfa_attention& attention) const;
  void run(OrtKernelContext* context, const qfa_attention& attention) const;

  const OrtApi& api_;
  std::string place_;  // "ai.qfa::QuantFlashAttention node 'name'"
  Attributes attributes_;
  OrtElementType types_[kInputCount] = {};
  bool wants_[kOutputCount] = {};
  qfa_isa isa_ = QFA_ISA_AUTO;
  std::unique_ptr<OrtMemoryInfo, void (*)(OrtMemoryInfo*)> memory_;
};

}  // namespace qfa::ort

#endif  // QFA_ORT_KERNEL_H_
