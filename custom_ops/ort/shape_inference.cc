#include "ort/shape_inference.h"

#include <atomic>
#include <bit>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "ort/opspec.h"
#include "ort/status.h"

namespace qfa::ort {
namespace {

// An extent: a number, or a name, or neither.
struct Extent {
  int64_t number = -1;
  std::string name;

  bool is_known() const { return number >= 0; }
};

Extent known(int64_t number) { return {number, ""}; }

Extent times(const Extent& a, int64_t factor) {
  if (factor == 1) return a;
  return a.is_known() && factor > 0 ? known(a.number * factor) : Extent{};
}

Extent over(const Extent& a, int64_t divisor) {
  if (divisor == 1) return a;
  return a.is_known() && divisor > 0 ? known(a.number / divisor) : Extent{};
}

class Inference {
 public:
  Inference(const OrtApi& api, OrtShapeInferContext* context) : api_(api), context_(context) {
    check(api_, api_.ShapeInferContext_GetInputCount(context_, &inputs_));
  }

  // Undefined where the input is absent.
  OrtElementType type_of(InputIndex input) const {
    if (input >= inputs_) return kType_undefined;
    OrtTensorTypeAndShapeInfo* info = nullptr;
    OrtElementType type = kType_undefined;
    check(api_, api_.ShapeInferContext_GetInputTypeShape(context_, input, &info));
    check(api_, api_.GetTensorElementType(info, &type));
    return type;
  }

  // Whether all inputs that may be of several types have the type of the query.
  bool has_one_float_type() const {
    for (size_t input = 0; input < inputs_ && input < kInputCount; ++input) {
      if (std::has_single_bit(kInputs[input].types)) continue;
      const OrtElementType type = type_of(static_cast<InputIndex>(input));
      if (type != kType_undefined && type != type_of(kInput_query)) return false;
    }
    return true;
  }

  // Empty where the rank is unknown or the input is absent.
  std::vector<Extent> shape_of(InputIndex input) const {
    if (input >= inputs_) return {};
    OrtTensorTypeAndShapeInfo* info = nullptr;  // owned by the context
    check(api_, api_.ShapeInferContext_GetInputTypeShape(context_, input, &info));
    size_t rank = 0;
    check(api_, api_.GetDimensionsCount(info, &rank));
    std::vector<int64_t> numbers(rank, -1);
    std::vector<const char*> names(rank, "");
    check(api_, api_.GetDimensions(info, numbers.data(), rank));
    check(api_, api_.GetSymbolicDimensions(info, names.data(), rank));
    std::vector<Extent> shape(rank);
    for (size_t axis = 0; axis < rank; ++axis) shape[axis] = {numbers[axis], names[axis]};
    return shape;
  }

  // 0 where it is missing.
  int64_t attribute(const char* name) const {
    const OrtOpAttr* attribute = nullptr;
    int64_t value = 0;
    size_t size = 0;
    if (!succeeded(api_, api_.ShapeInferContext_GetAttribute(context_, name, &attribute)) ||
        !succeeded(api_,
                   api_.ReadOpAttr(attribute, ORT_OP_ATTR_INT, &value, sizeof(value), &size))) {
      return 0;
    }
    return value;
  }

  void set(OutputIndex output, OrtElementType type, std::vector<Extent> shape) {
    std::vector<int64_t> numbers;
    std::vector<const char*> names;
    for (Extent& extent : shape) {
      if (!extent.is_known() && extent.name.empty()) extent.name = fresh_name();
      numbers.push_back(extent.number);
      names.push_back(extent.name.c_str());
    }
    OrtTensorTypeAndShapeInfo* raw = nullptr;
    check(api_, api_.CreateTensorTypeAndShapeInfo(&raw));
    const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> info(
        raw, api_.ReleaseTensorTypeAndShapeInfo);
    check(api_, api_.SetTensorElementType(raw, type));
    check(api_, api_.SetDimensions(raw, numbers.data(), numbers.size()));
    check(api_, api_.SetSymbolicDimensions(raw, names.data(), names.size()));
    check(api_, api_.ShapeInferContext_SetOutputTypeShape(context_, output, raw));
  }

 private:
  // For an extent that has neither number nor name: the runtime would take it for the number -1,
  // and one name for two of them for a promise that they are equal. The runtime may save the names
  // with a model and load them again, so numbers start at the time.
  static std::string fresh_name() {
    static std::atomic<int64_t> count{std::chrono::system_clock::now().time_since_epoch() /
                                      std::chrono::nanoseconds(1)};
    return "qfa_open_" + std::to_string(count.fetch_add(1));
  }

  const OrtApi& api_;
  OrtShapeInferContext* context_;
  size_t inputs_ = 0;
};

// Rows and channels of K or V, (B, heads, rows, channels) or (B, rows, heads * channels).
struct Operand {
  Operand(const std::vector<Extent>& shape, int64_t heads) {
    if (shape.size() == 4) {
      rows = shape[2];
      channels = shape[3];
    } else if (shape.size() == 3) {
      rows = shape[1];
      channels = over(shape[2], heads);
    }
  }

  Extent rows, channels;
};

}  // namespace

void infer_shapes(const OrtApi& api, OrtShapeInferContext* context) {
  Inference inference(api, context);
  const int64_t heads = inference.attribute("num_heads");
  const int64_t kv_heads = inference.attribute("kv_num_heads");
  const OrtElementType type = inference.type_of(kInput_query);
  const std::vector<Extent> query = inference.shape_of(kInput_query);
  const std::vector<Extent> value_shape = inference.shape_of(kInput_value);
  const Operand value(value_shape, kv_heads);
  if (query.size() == 4) {
    inference.set(kOutput_output, type, {query[0], query[1], query[2], value.channels});
  } else if (query.size() == 3) {
    const bool same_width = value_shape.size() == 3 && heads == kv_heads;
    inference.set(kOutput_output, type,
                  {query[0], query[1], same_width ? value_shape[2] : times(value.channels, heads)});
  } else if (!inference.has_one_float_type()) {
    // The runtime would give the output the type of the last input of any type. It takes no type
    // without a rank, so this is the rank that operands mostly have.
    inference.set(kOutput_output, type, {Extent{}, Extent{}, Extent{}, Extent{}});
  }
}

}  // namespace qfa::ort
