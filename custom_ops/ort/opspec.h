// The operator's schema in C++, expanded from opspec.inc.
#ifndef QFA_ORT_OPSPEC_H_
#define QFA_ORT_OPSPEC_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "ort/ort_abi.h"

namespace qfa::ort {

struct InputSpec {
  const char* name;
  uint32_t types;  // bit n: ONNX element type n is accepted
  bool required;
  const char* shape;
};

#define QFA_SCHEMA(domain, op, domain_version, schema_version) \
  inline constexpr const char* kDomain = domain;               \
  inline constexpr const char* kOpType = op;                   \
  inline constexpr int kDomainVersion = domain_version;        \
  inline constexpr int64_t kSchemaVersion = schema_version;
#include "ort/opspec.inc"

#define QFA_INPUT(index, name, types, required, shape) kInput_##name = index,
enum InputIndex : size_t {
#include "ort/opspec.inc"
  kInputCount
};

#define QFA_OUTPUT(index, name, required, shape) kOutput_##name = index,
enum OutputIndex : size_t {
#include "ort/opspec.inc"
  kOutputCount
};

#define QFA_TYPE(name) (1u << kType_##name)
#define QFA_INPUT(index, name, types, required, shape) {#name, types, required, shape},
inline constexpr InputSpec kInputs[] = {
#include "ort/opspec.inc"
};
#undef QFA_TYPE

struct OutputSpec {
  const char* name;
  bool required;
  const char* shape;
};

#define QFA_OUTPUT(index, name, required, shape) {#name, required, shape},
inline constexpr OutputSpec kOutputs[] = {
#include "ort/opspec.inc"
};

#define QFA_KIND_int int64_t
#define QFA_KIND_float float
#define QFA_KIND_string std::string
#define QFA_ATTRIBUTE(name, kind, required, fallback, choices) QFA_KIND_##kind name{};
struct Attributes {
#include "ort/opspec.inc"
};
#undef QFA_KIND_int
#undef QFA_KIND_float
#undef QFA_KIND_string

}  // namespace qfa::ort

#endif  // QFA_ORT_OPSPEC_H_
