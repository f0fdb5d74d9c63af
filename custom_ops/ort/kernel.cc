#include "ort/kernel.h"

#include <cmath>

#include "ort/attributes.h"
#include "ort/session_resources.h"
#include "ort/status.h"

namespace qfa::ort {
namespace {

[[noreturn]] void reject(const std::string& text) { throw Failure(ORT_INVALID_ARGUMENT, text); }

std::string with_shape(InputIndex input, const TensorView& view) {
  return std::string(kInputs[input].name) + " " + kInputs[input].shape + " = " + view.shape();
}

// Static scales: how many there are, after checking count and values.
int64_t scale_count(InputIndex input, const TensorView& view, int64_t heads) {
  const int64_t count = view.count();
  if (view.rank > 1 || (count != 1 && count != heads)) {
    reject(std::string(kInputs[input].name) + " has shape " + view.shape() + "; expected () or (" +
           std::to_string(heads) + ",), one step or one per head");
  }
  const auto* scales = static_cast<const float*>(view.data);
  for (int64_t index = 0; index < count; ++index) {
    if (!(std::isfinite(scales[index]) && scales[index] > 0.0f)) {
      reject(std::string(kInputs[input].name) + " holds " + std::to_string(scales[index]) + " at " +
             std::to_string(index) + "; a scale must be finite and above zero");
    }
  }
  return count;
}

// A mask that is one true, and a bias or mean that is one zero, change nothing and must cost
// nothing.
bool is_neutral_mask(const TensorView& view) {
  return !view.present || (view.count() == 1 && *static_cast<const uint8_t*>(view.data) != 0);
}

bool is_single_zero(const TensorView& view, OrtElementType type) {
  if (view.count() != 1) return false;
  if (type == kType_float16) return (*static_cast<const uint16_t*>(view.data) & 0x7fff) == 0;
  return *static_cast<const float*>(view.data) == 0.0f;
}

qfa_tensor dense(const TensorView& view, OrtElementType type) {
  const int64_t row = view.extents[3];
  const int64_t head = view.extents[2] * row;
  return {view.data, to_dtype(type), view.extents[1] * head, head, row};
}

}  // namespace

Kernel::Kernel(const OrtApi& api, const OrtKernelInfo* info)
    : api_(api),
      place_("ai.qfa::QuantFlashAttention " + node_label(api, info)),
      memory_(nullptr, api.ReleaseMemoryInfo) {
  in_context(place_, [&] {
    attributes_ = read_attributes(api, info);
    read_types(info);
    if (is_static()) validate_static_scales(info);
    const char* message = nullptr;
    if (qfa_default_isa(&isa_, &message) != QFA_OK) throw Failure(ORT_NOT_IMPLEMENTED, message);
    OrtMemoryInfo* memory = nullptr;
    check(api_, api_.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    memory_.reset(memory);
  });
}

void Kernel::read_types(const OrtKernelInfo* info) {
  for (size_t index = 0; index < kInputCount; ++index) {
    const InputSpec& spec = kInputs[index];
    if (!has_input(api_, info, index)) {
      if (spec.required) reject("input " + std::string(spec.name) + " is missing");
      continue;
    }
    OrtTypeInfo* raw = nullptr;
    check(api_, api_.KernelInfo_GetInputTypeInfo(info, index, &raw));
    const std::unique_ptr<OrtTypeInfo, void (*)(OrtTypeInfo*)> type(raw, api_.ReleaseTypeInfo);
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    check(api_, api_.CastTypeInfoToTensorInfo(raw, &tensor));
    if (tensor == nullptr) reject("input " + std::string(spec.name) + " is no tensor");
    check(api_, api_.GetTensorElementType(tensor, &types_[index]));
    if ((spec.types >> types_[index] & 1u) == 0) {
      reject("input " + std::string(spec.name) + " has element type " +
             std::to_string(types_[index]) +
             " (ONNX numbering); allowed are float (1) and float16 (10) for tensors, bool (9) for "
             "attn_mask; insert a Cast before the node");
    }
  }
  if (types_[kInput_key] != types_[kInput_query] || types_[kInput_value] != types_[kInput_query]) {
    reject("query, key and value must have one element type; insert a Cast before the node");
  }
}

void Kernel::validate_static_scales(const OrtKernelInfo* info) const {
  for (const InputIndex input : {kInput_q_scale, kInput_k_scale, kInput_v_scale}) {
    if (!has_input(api_, info, input)) {
      reject("scale_mode is \"static\", but input " + std::string(kInputs[input].name) +
             " is missing; give it, or use scale_mode \"dynamic\"");
    }
    int is_constant = 0;
    const OrtValue* value = nullptr;
    check(api_, api_.KernelInfoGetConstantInput_tensor(info, input, &is_constant, &value));
    if (is_constant != 0 && value != nullptr) {
      const bool of_query = input == kInput_q_scale;
      scale_count(input, view_tensor(api_, value),
                  of_query ? attributes_.num_heads : attributes_.kv_num_heads);
    }
  }
}

void Kernel::compute(OrtKernelContext* context) const {
  in_context(place_, [&] {
    size_t count = 0;
    check(api_, api_.KernelContext_GetInputCount(context, &count));
    Views views;
    for (size_t index = 0; index < count && index < kInputCount; ++index) {
      const OrtValue* value = nullptr;
      check(api_, api_.KernelContext_GetInput(context, index, &value));
      views[index] = view_tensor(api_, value);
    }
    qfa_attention attention{};
    describe(views, &attention);

    const int64_t extents[4] = {attention.batch, attention.heads, attention.query_length,
                                attention.v_channels};
    OrtValue* output = nullptr;
    check(api_, api_.KernelContext_GetOutput(context, 0, extents, 4, &output));
    check(api_, api_.GetTensorMutableData(output, &attention.output));
    attention.output_row_stride = attention.v_channels;
    attention.output_head_stride = attention.query_length * attention.output_row_stride;
    attention.output_batch_stride = attention.heads * attention.output_head_stride;
    run(context, attention);
  });
}

// Checks that all extents fit together and fills everything but the output.
void Kernel::describe(const Views& views, qfa_attention* attention) const {
  const TensorView& query = views[kInput_query];
  const TensorView& key = views[kInput_key];
  const TensorView& value = views[kInput_value];
  for (const InputIndex input : {kInput_query, kInput_key, kInput_value}) {
    if (views[input].rank != 4) reject(with_shape(input, views[input]) + " must have rank 4");
  }
  if (query.extents[1] != attributes_.num_heads) {
    reject(with_shape(kInput_query, query) + " has another number of heads than num_heads, H = " +
           std::to_string(attributes_.num_heads));
  }
  for (const InputIndex input : {kInput_key, kInput_value}) {
    if (views[input].extents[1] != attributes_.kv_num_heads) {
      reject(with_shape(input, views[input]) +
             " has another number of heads than kv_num_heads, Hkv = " +
             std::to_string(attributes_.kv_num_heads));
    }
    if (views[input].extents[0] != query.extents[0]) {
      reject(with_shape(input, views[input]) + " and " + with_shape(kInput_query, query) +
             " differ in the batch B");
    }
  }
  if (key.extents[3] != query.extents[3]) {
    reject(with_shape(kInput_query, query) + " and " + with_shape(kInput_key, key) +
           " differ in the channels D");
  }
  if (value.extents[2] != key.extents[2]) {
    reject(with_shape(kInput_key, key) + " and " + with_shape(kInput_value, value) +
           " differ in the length T");
  }

  attention->struct_size = sizeof(*attention);
  attention->batch = query.extents[0];
  attention->heads = attributes_.num_heads;
  attention->kv_heads = attributes_.kv_num_heads;
  attention->query_length = query.extents[2];
  attention->key_length = key.extents[2];
  attention->qk_channels = query.extents[3];
  attention->v_channels = value.extents[3];
  attention->query = dense(query, types_[kInput_query]);
  attention->key = dense(key, types_[kInput_key]);
  attention->value = dense(value, types_[kInput_value]);
  attention->scale = attributes_.scale;
  attention->is_causal = static_cast<int32_t>(attributes_.is_causal);
  attention->rotation = attributes_.rotate == "hadamard" ? QFA_ROTATE_HADAMARD : QFA_ROTATE_NONE;

  const int64_t scores[4] = {attention->batch, attention->heads, attention->query_length,
                             attention->key_length};
  const TensorView& mask = views[kInput_attn_mask];
  if (!is_neutral_mask(mask)) attention->mask = broadcast("attn_mask", mask, scores);
  const TensorView& bias = views[kInput_attn_bias];
  if (bias.present && !is_single_zero(bias, types_[kInput_attn_bias])) {
    attention->bias = broadcast("attn_bias", bias, scores);
    attention->bias_dtype = to_dtype(types_[kInput_attn_bias]);
  }
  const TensorView& mean = views[kInput_k_mean];
  if (mean.present && !is_single_zero(mean, kType_float)) {
    if (mean.rank != 2 || mean.extents[0] != attention->kv_heads ||
        mean.extents[1] != attention->qk_channels) {
      reject(with_shape(kInput_k_mean, mean) + " does not fit " + with_shape(kInput_key, key));
    }
    attention->k_mean = static_cast<const float*>(mean.data);
  }
  if (is_static()) {
    const auto fill = [&](InputIndex input, int64_t heads, const float** data, int64_t* count) {
      *count = scale_count(input, views[input], heads);
      *data = static_cast<const float*>(views[input].data);
    };
    fill(kInput_q_scale, attention->heads, &attention->q_scale, &attention->q_scale_count);
    fill(kInput_k_scale, attention->kv_heads, &attention->k_scale, &attention->k_scale_count);
    fill(kInput_v_scale, attention->kv_heads, &attention->v_scale, &attention->v_scale_count);
  }
}

void Kernel::run(OrtKernelContext* context, const qfa_attention& attention) const {
  PoolExecutor pool(api_, context);
  SessionAllocator memory(api_, context, memory_.get());
  const qfa_executor executor = pool.as_c();
  const qfa_allocator allocator = memory.as_c();
  const char* message = nullptr;
  switch (qfa_attention_run(&attention, isa_, &executor, &allocator, &message)) {
    case QFA_OK:
      return;
    case QFA_INVALID_ARGUMENT:
    case QFA_INVALID_SHAPE:
      reject(message);
    case QFA_UNSUPPORTED_ISA:
      throw Failure(ORT_NOT_IMPLEMENTED, message);
    case QFA_OUT_OF_MEMORY:
      throw Failure(ORT_RUNTIME_EXCEPTION, message);
  }
  throw Failure(ORT_RUNTIME_EXCEPTION, message);
}

}  // namespace qfa::ort
