// Attributes and identity of one node, read and validated when a session is created.
#ifndef QFA_ORT_ATTRIBUTES_H_
#define QFA_ORT_ATTRIBUTES_H_

#include <string>

#include "ort/opspec.h"
#include "ort/ort_abi.h"

namespace qfa::ort {

// How messages name the node: its name, or its first output when it has none.
std::string node_label(const OrtApi& api, const OrtKernelInfo* info);

// True if the node has this input (optional inputs may be left out at the end or in the middle).
bool has_input(const OrtApi& api, const OrtKernelInfo* info, size_t index);

// The same of outputs.
bool has_output(const OrtApi& api, const OrtKernelInfo* info, size_t index);

// Throws Failure that names the attribute, its value and what is allowed. Messages do not name the
// node.
Attributes read_attributes(const OrtApi& api, const OrtKernelInfo* info);

}  // namespace qfa::ort

#endif  // QFA_ORT_ATTRIBUTES_H_
