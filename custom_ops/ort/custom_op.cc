#include "ort/custom_op.h"

#include <bit>

#include "ort/kernel.h"
#include "ort/opspec.h"
#include "ort/shape_inference.h"
#include "ort/status.h"

namespace qfa::ort {
namespace {

const CustomOp& self(const OrtCustomOp* op) { return *static_cast<const CustomOp*>(op); }

// Undefined leaves the runtime's own check open; Kernel then checks the type with a better message.
OrtElementType input_type(const OrtCustomOp* op, size_t index) {
  if (index == kInput_past_key) return self(op).types.past;
  if (index == kInput_past_key_scale) return self(op).types.scale;
  const uint32_t types = kInputs[index].types;
  return std::has_single_bit(types) ? static_cast<OrtElementType>(std::countr_zero(types))
                                    : kType_undefined;
}

OrtElementType output_type(const OrtCustomOp* op, size_t index) {
  switch (index) {
    case kOutput_present_key:
    case kOutput_present_value:
      return self(op).types.present;
    case kOutput_present_key_scale:
    case kOutput_present_value_scale:
      return self(op).types.scale;
    case kOutput_present_key_zero_point:
    case kOutput_present_value_zero_point:
      return kType_int8;
    default:
      return kType_undefined;
  }
}

OrtCharacteristic input_characteristic(const OrtCustomOp*, size_t index) {
  return kInputs[index].required ? kRequired : kOptional;
}

OrtStatus* create_kernel(const OrtCustomOp* op, const OrtSlot*, const OrtKernelInfo* info,
                         void** kernel) {
  const OrtApi& api = self(op).api;
  return guarded(api, [&] { *kernel = new Kernel(api, info); });
}

OrtStatus* compute_kernel(void* opaque, OrtKernelContext* context) {
  const auto* kernel = static_cast<const Kernel*>(opaque);
  return guarded(kernel->api(), [&] { kernel->compute(context); });
}

void destroy_kernel(void* opaque) { delete static_cast<Kernel*>(opaque); }

OrtCharacteristic output_characteristic(const OrtCustomOp*, size_t index) {
  return kOutputs[index].required ? kRequired : kOptional;
}

OrtStatus* infer(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const OrtApi& api = self(op).api;
  return guarded(api, [&] { infer_shapes(api, context); });
}

}  // namespace

CustomOp::CustomOp(const OrtSlot* table, CacheTypes cache_types)
    : OrtCustomOp{}, api(table), types(cache_types) {
  version = kApiVersion;
  GetName = [](const OrtCustomOp*) { return kOpType; };
  GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
  GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kInputCount; };
  GetInputType = input_type;
  GetInputCharacteristic = input_characteristic;
  GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return kOutputCount; };
  GetOutputType = output_type;
  GetOutputCharacteristic = output_characteristic;
  GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  CreateKernelV2 = create_kernel;
  KernelComputeV2 = compute_kernel;
  KernelDestroy = destroy_kernel;
  InferOutputShapeFn = infer;
  GetStartVersion = [](const OrtCustomOp*) { return kDomainVersion; };
  GetEndVersion = [](const OrtCustomOp*) { return kDomainVersion; };
}

std::vector<std::unique_ptr<CustomOp>> make_custom_ops(const OrtSlot* table) {
  std::vector<std::unique_ptr<CustomOp>> ops;
  const auto add = [&](OrtElementType past, OrtElementType present, OrtElementType scale) {
    ops.push_back(std::make_unique<CustomOp>(table, CacheTypes{past, present, scale}));
  };
  // For nodes without a past: no past that Kernel accepts has this type.
  add(kType_double, kType_undefined, kType_float);
  for (const OrtElementType type :
       {kType_float, kType_float16, kType_bfloat16, kType_int8, kType_uint8}) {
    add(type, type, kType_float);
    add(type, type, kType_float16);
  }
  return ops;
}

}  // namespace qfa::ort
