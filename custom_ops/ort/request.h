// From the tensors of one call to the request that the kernel library takes.
#ifndef QFA_ORT_REQUEST_H_
#define QFA_ORT_REQUEST_H_

#include "ort/opspec.h"
#include "ort/tensor_view.h"
#include "qfa/qfa.h"

namespace qfa::ort {

// What the call has for each input of the schema.
struct Inputs {
  TensorView views[kInputCount];
  const OrtElementType* types;  // [kInputCount]
};

// Throws Failure unless every number is one that a scale can be.
void check_steps(InputIndex input, const TensorView& view);

// How many static scales there are, 1 or `heads`. Throws Failure on another shape or a bad value.
int64_t scale_count(InputIndex input, const TensorView& view, int64_t heads);

// Checks that all extents fit together and fills everything but what is written. Throws Failure
// that shows both shapes.
qfa_attention make_request(const Attributes& attributes, const Inputs& inputs);

}  // namespace qfa::ort

#endif  // QFA_ORT_REQUEST_H_
