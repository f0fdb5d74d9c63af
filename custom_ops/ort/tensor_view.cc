#include "ort/tensor_view.h"

#include <memory>

#include "ort/status.h"

namespace qfa::ort {
namespace {

std::string format_shape(const int64_t* extents, size_t rank) {
  std::string text = "(";
  for (size_t axis = 0; axis < rank; ++axis) {
    text += (axis == 0 ? "" : ", ") + std::to_string(extents[axis]);
  }
  return text + ")";
}

}  // namespace

int64_t TensorView::count() const {
  int64_t product = 1;
  for (size_t axis = 0; axis < rank; ++axis) product *= extents[axis];
  return product;
}

std::string TensorView::shape() const { return format_shape(extents, rank); }

TensorView view_tensor(const OrtApi& api, const OrtValue* value) {
  TensorView view;
  if (value == nullptr) return view;
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  check(api, api.GetTensorTypeAndShape(value, &raw));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> info(
      raw, api.ReleaseTensorTypeAndShapeInfo);
  check(api, api.GetDimensionsCount(raw, &view.rank));
  if (view.rank > TensorView::kMaxRank) {
    throw Failure(ORT_INVALID_ARGUMENT,
                  "an input has rank " + std::to_string(view.rank) + "; at most 4 makes sense");
  }
  check(api, api.GetDimensions(raw, view.extents, view.rank));
  void* data = nullptr;
  check(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  view.present = true;
  view.data = data;
  return view;
}

qfa_dtype to_dtype(OrtElementType type) {
  if (type == kType_bfloat16) return QFA_BFLOAT16;
  return type == kType_float16 ? QFA_FLOAT16 : QFA_FLOAT32;
}

qfa_mask broadcast(const char* name, const TensorView& view, const int64_t (&extents)[4]) {
  qfa_mask mask{};
  mask.data = view.data;
  bool fits = view.rank <= 4;
  int64_t stride = 1;
  for (size_t back = 0; fits && back < view.rank; ++back) {
    const int64_t extent = view.extents[view.rank - 1 - back];
    const size_t axis = 3 - back;
    fits = extent == extents[axis] || extent == 1;
    mask.strides[axis] = extent == 1 ? 0 : stride;
    stride *= extent;
  }
  if (!fits) {
    throw Failure(ORT_INVALID_ARGUMENT,
                  std::string(name) + " of shape " + view.shape() +
                      " cannot be broadcast to (B, H, S, T) = " + format_shape(extents, 4));
  }
  return mask;
}

}  // namespace qfa::ort
