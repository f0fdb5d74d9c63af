// The part of ONNX Runtime's C interface that the operator uses, declared by ourselves: no package
// carries the official headers for every platform, and this keeps the build free of downloads.
//
// The interface is stable by construction: OrtApi is a table of functions that only grows at its
// end, OrtCustomOp is a record whose `version` tells the runtime how far it may read.
#ifndef QFA_ORT_ORT_ABI_H_
#define QFA_ORT_ORT_ABI_H_

#include <cstddef>
#include <cstdint>

namespace qfa::ort {

// Version of the table that is asked for: 17 brought parallel_for and shape inference of custom
// operators.
inline constexpr uint32_t kApiVersion = 17;

struct OrtStatus;
struct OrtValue;
struct OrtTypeInfo;
struct OrtTensorTypeAndShapeInfo;
struct OrtMemoryInfo;
struct OrtAllocator;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtOpAttr;

enum OrtErrorCode : int {
  ORT_FAIL = 1,
  ORT_INVALID_ARGUMENT = 2,
  ORT_RUNTIME_EXCEPTION = 6,
  ORT_NOT_IMPLEMENTED = 9
};
enum OrtAllocatorType : int { OrtDeviceAllocator = 0 };
enum OrtMemType : int { OrtMemTypeDefault = 0 };
enum OrtCharacteristic : int { kRequired = 0, kOptional = 1 };
// TensorProto::DataType of ONNX; undefined stands for "any type" in the signature of a custom
// operator.
enum OrtElementType : int {
  kType_undefined = 0,
  kType_float = 1,
  kType_uint8 = 2,
  kType_int8 = 3,
  kType_int64 = 7,
  kType_bool = 9,
  kType_float16 = 10,
  kType_double = 11,
  kType_bfloat16 = 16
};
enum OrtOpAttrType : int { ORT_OP_ATTR_INT = 1 };

using OrtSlot = void (*)();

struct OrtApiBase {
  const OrtSlot* (*GetApi)(
      uint32_t version);  // null: this runtime is older than the version asked for
  const char* (*GetVersionString)();
};

// Callbacks of a custom operator, as far as version 17 reads them.
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtSlot*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  OrtElementType (*GetInputType)(const OrtCustomOp*, size_t);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  OrtElementType (*GetOutputType)(const OrtCustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void*, OrtKernelContext*);
  void (*KernelDestroy)(void*);
  OrtCharacteristic (*GetInputCharacteristic)(const OrtCustomOp*, size_t);
  OrtCharacteristic (*GetOutputCharacteristic)(const OrtCustomOp*, size_t);
  OrtMemType (*GetInputMemoryType)(const OrtCustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtSlot*, const OrtKernelInfo*, void**);
  OrtStatus* (*KernelComputeV2)(void*, OrtKernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
};

// The functions in use, fetched from the runtime's table by their index.
struct OrtApi {
#define QFA_ORT_SLOT(result, index, name, parameters) result(*name) parameters;
#include "ort/ort_slots.inc"

  explicit OrtApi(const OrtSlot* table) {
#define QFA_ORT_SLOT(result, index, name, parameters) \
  name = reinterpret_cast<result(*) parameters>(table[index]);
#include "ort/ort_slots.inc"
  }
};

}  // namespace qfa::ort

#endif  // QFA_ORT_ORT_ABI_H_
