// What the runtime learns about the outputs' shapes before it runs.
#ifndef QFA_ORT_SHAPE_INFERENCE_H_
#define QFA_ORT_SHAPE_INFERENCE_H_

#include "ort/ort_abi.h"

namespace qfa::ort {

// Sets what follows for the attention output. What does not fit is left to the run, which names the
// node. Nothing is set for present_key and present_value: a node may lack them, the runtime tells
// nobody, and 1.24 ends the process when a shape is set for an output that is not there. Throws
// Failure.
void infer_shapes(const OrtApi& api, OrtShapeInferContext* context);

}  // namespace qfa::ort

#endif  // QFA_ORT_SHAPE_INFERENCE_H_
