// Compiled only with -DQFA_ORT_INCLUDE_DIR=DIR: holds every index, parameter count and callback of
// our own declarations against a real onnxruntime_c_api.h. Produces no code.
#ifdef QFA_CHECK_ORT_HEADER
#include <onnxruntime_c_api.h>

#include <cstddef>

#include "ort/ort_abi.h"

namespace {

template <typename Result, typename... Parameters>
constexpr size_t arity(Result (*)(Parameters...)) {
  return sizeof...(Parameters);
}

template <typename Member, typename Owner>
Member member_type(Member Owner::*);

#define QFA_ORT_SLOT(result, index, name, parameters)                                   \
  static_assert(offsetof(::OrtApi, name) == (index) * sizeof(void*), "slot of " #name); \
  static_assert(arity(decltype(member_type(&::OrtApi::name)){}) ==                      \
                    arity(decltype(member_type(&qfa::ort::OrtApi::name)){}),            \
                "parameters of " #name);
#include "ort/ort_slots.inc"

#define QFA_FIELD(name)                                                                         \
  static_assert(offsetof(::OrtCustomOp, name) == offsetof(qfa::ort::OrtCustomOp, name), #name); \
  static_assert(arity(decltype(member_type(&::OrtCustomOp::name)){}) ==                         \
                    arity(decltype(member_type(&qfa::ort::OrtCustomOp::name)){}),               \
                "parameters of " #name)
QFA_FIELD(CreateKernel);
QFA_FIELD(GetName);
QFA_FIELD(GetExecutionProviderType);
QFA_FIELD(GetInputType);
QFA_FIELD(GetInputTypeCount);
QFA_FIELD(GetOutputType);
QFA_FIELD(GetOutputTypeCount);
QFA_FIELD(KernelCompute);
QFA_FIELD(KernelDestroy);
QFA_FIELD(GetInputCharacteristic);
QFA_FIELD(GetOutputCharacteristic);
QFA_FIELD(GetInputMemoryType);
QFA_FIELD(GetVariadicInputMinArity);
QFA_FIELD(GetVariadicInputHomogeneity);
QFA_FIELD(GetVariadicOutputMinArity);
QFA_FIELD(GetVariadicOutputHomogeneity);
QFA_FIELD(CreateKernelV2);
QFA_FIELD(KernelComputeV2);
QFA_FIELD(InferOutputShapeFn);
QFA_FIELD(GetStartVersion);
QFA_FIELD(GetEndVersion);

static_assert(ORT_API_VERSION >= qfa::ort::kApiVersion);
static_assert(offsetof(::OrtApiBase, GetVersionString) ==
              offsetof(qfa::ort::OrtApiBase, GetVersionString));
static_assert(::ORT_FAIL == static_cast<int>(qfa::ort::ORT_FAIL));
static_assert(::ORT_INVALID_ARGUMENT == static_cast<int>(qfa::ort::ORT_INVALID_ARGUMENT));
static_assert(::ORT_RUNTIME_EXCEPTION == static_cast<int>(qfa::ort::ORT_RUNTIME_EXCEPTION));
static_assert(::ORT_NOT_IMPLEMENTED == static_cast<int>(qfa::ort::ORT_NOT_IMPLEMENTED));
static_assert(::OrtDeviceAllocator == static_cast<int>(qfa::ort::OrtDeviceAllocator));
static_assert(::OrtMemTypeDefault == static_cast<int>(qfa::ort::OrtMemTypeDefault));
static_assert(::INPUT_OUTPUT_REQUIRED == static_cast<int>(qfa::ort::kRequired));
static_assert(::INPUT_OUTPUT_OPTIONAL == static_cast<int>(qfa::ort::kOptional));
static_assert(::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT == static_cast<int>(qfa::ort::kType_float));
static_assert(::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 == static_cast<int>(qfa::ort::kType_uint8));
static_assert(::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 == static_cast<int>(qfa::ort::kType_int8));
static_assert(::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL == static_cast<int>(qfa::ort::kType_bool));
static_assert(::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 == static_cast<int>(qfa::ort::kType_float16));
static_assert(::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE == static_cast<int>(qfa::ort::kType_double));
static_assert(::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 == static_cast<int>(qfa::ort::kType_int64));
static_assert(::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 ==
              static_cast<int>(qfa::ort::kType_bfloat16));
static_assert(::ORT_OP_ATTR_INT == static_cast<int>(qfa::ort::ORT_OP_ATTR_INT));

}  // namespace
#endif
