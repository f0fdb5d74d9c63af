#include "ort/custom_op.h"

#include <atomic>
#include <bit>
#include <chrono>
#include <memory>
#include <string>

#include "ort/kernel.h"
#include "ort/opspec.h"
#include "ort/status.h"

namespace qfa::ort {
namespace {

const CustomOp& self(const OrtCustomOp* op) { return *static_cast<const CustomOp*>(op); }

// Undefined leaves the runtime's own check open; Kernel then checks the type with a better message.
OrtElementType input_type(const OrtCustomOp*, size_t index) {
  const uint32_t types = kInputs[index].types;
  return std::has_single_bit(types) ? static_cast<OrtElementType>(std::countr_zero(types))
                                    : kType_undefined;
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

// One input as shape inference knows it; an unknown extent is -1 with a name that may be empty.
struct KnownShape {
  KnownShape(const OrtApi& api, const OrtShapeInferContext* context, InputIndex input) {
    OrtTensorTypeAndShapeInfo* info = nullptr;  // owned by the context
    check(api, api.ShapeInferContext_GetInputTypeShape(context, input, &info));
    check(api, api.GetTensorElementType(info, &type));
    size_t rank = 0;
    check(api, api.GetDimensionsCount(info, &rank));
    if (rank != 4) return;
    check(api, api.GetDimensions(info, extents, 4));
    check(api, api.GetSymbolicDimensions(info, names, 4));
  }

  OrtElementType type = kType_undefined;
  int64_t extents[4] = {-1, -1, -1, -1};
  const char* names[4] = {"", "", "", ""};
};

// Gives a name of its own to an extent that has neither number nor name: the runtime would take it
// for the number -1, and one name for two of them for a promise that they are equal. The runtime
// may save the names with a model and load them again, so numbers start at the time.
void name_if_open(int64_t extent, const char** name, std::string* storage) {
  if (extent >= 0 || **name != '\0') return;
  static std::atomic<int64_t> count{std::chrono::system_clock::now().time_since_epoch() /
                                    std::chrono::nanoseconds(1)};
  *storage = "qfa_open_" + std::to_string(count.fetch_add(1));
  *name = storage->c_str();
}

// (B, H, S, D) and (B, Hkv, T, Dv) give (B, H, S, Dv). What does not fit is left to compute, which
// names the node.
OrtStatus* infer_output(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const OrtApi& api = self(op).api;
  return guarded(api, [&] {
    KnownShape output(api, context, kInput_query);
    const KnownShape value(api, context, kInput_value);
    output.extents[3] = value.extents[3];
    output.names[3] = value.names[3];
    std::string storage[4];
    for (int axis = 0; axis < 4; ++axis) {
      name_if_open(output.extents[axis], &output.names[axis], &storage[axis]);
    }
    OrtTensorTypeAndShapeInfo* raw = nullptr;
    check(api, api.CreateTensorTypeAndShapeInfo(&raw));
    const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> info(
        raw, api.ReleaseTensorTypeAndShapeInfo);
    check(api, api.SetTensorElementType(raw, output.type));
    check(api, api.SetDimensions(raw, output.extents, 4));
    check(api, api.SetSymbolicDimensions(raw, output.names, 4));
    check(api, api.ShapeInferContext_SetOutputTypeShape(context, 0, raw));
  });
}

}  // namespace

CustomOp::CustomOp(const OrtSlot* table) : OrtCustomOp{}, api(table) {
  version = kApiVersion;
  GetName = [](const OrtCustomOp*) { return kOpType; };
  GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
  GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kInputCount; };
  GetInputType = input_type;
  GetInputCharacteristic = input_characteristic;
  GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  GetOutputType = [](const OrtCustomOp*, size_t) { return kType_undefined; };
  GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kRequired; };
  GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  CreateKernelV2 = create_kernel;
  KernelComputeV2 = compute_kernel;
  KernelDestroy = destroy_kernel;
  InferOutputShapeFn = infer_output;
  GetStartVersion = [](const OrtCustomOp*) { return kDomainVersion; };
  GetEndVersion = [](const OrtCustomOp*) { return kDomainVersion; };
}

}  // namespace qfa::ort
