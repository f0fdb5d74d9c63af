#include "ort/kernel.h"

#include "ort/attributes.h"
#include "ort/cache.h"
#include "ort/request.h"
#include "ort/session_resources.h"
#include "ort/status.h"

namespace qfa::ort {
namespace {

[[noreturn]] void reject(const std::string& text) { throw Failure(ORT_INVALID_ARGUMENT, text); }

const char* name_of(OrtElementType type) {
  switch (type) {
    case kType_float:
      return "float";
    case kType_float16:
      return "float16";
    case kType_bfloat16:
      return "bfloat16";
    case kType_uint8:
      return "uint8";
    case kType_int8:
      return "int8";
    case kType_bool:
      return "bool";
    case kType_int64:
      return "int64";
    case kType_double:
    case kType_undefined:
      break;
  }
  return "another type";
}

// "float (1), float16 (10)"
std::string list_types(uint32_t types) {
  std::string text;
  for (int type = 0; type < 32; ++type) {
    if ((types >> type & 1u) == 0) continue;
    text += (text.empty() ? "" : ", ") + std::string(name_of(static_cast<OrtElementType>(type))) +
            " (" + std::to_string(type) + ")";
  }
  return text;
}

// Rows of a cache after the run.
int64_t rows_of_cache(const qfa_attention& a) {
  return a.past_length + (a.kv_shared != 0 ? 0 : a.key_length);
}

}  // namespace

Kernel::Kernel(const OrtApi& api, const OrtKernelInfo* info)
    : api_(api),
      place_("ai.qfa::QuantFlashAttention " + node_label(api, info)),
      memory_(nullptr, api.ReleaseMemoryInfo) {
  in_context(place_, [&] {
    attributes_ = read_attributes(api, info);
    read_types(info);
    for (size_t index = 0; index < kOutputCount; ++index) {
      wants_[index] = has_output(api, info, index);
    }
    check_cache_tensors(attributes_, types_, wants_);
    if (attributes_.scale_mode == "static") validate_static_scales(info);
    if (has_channel_scales(attributes_)) validate_channel_scales(info);
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
             std::to_string(types_[index]) + " (ONNX numbering); allowed are " +
             list_types(spec.types) + "; insert a Cast before the node");
    }
  }
  if (types_[kInput_key] != types_[kInput_query] || types_[kInput_value] != types_[kInput_query]) {
    reject("query, key and value must have one element type; insert a Cast before the node");
  }
}

TensorView Kernel::constant_input(const OrtKernelInfo* info, InputIndex input) const {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api_, api_.KernelInfoGetConstantInput_tensor(info, input, &is_constant, &value));
  return view_tensor(api_, is_constant != 0 ? value : nullptr);
}

void Kernel::validate_static_scales(const OrtKernelInfo* info) const {
  for (const InputIndex input : {kInput_q_scale, kInput_k_scale, kInput_v_scale}) {
    if (!has_input(api_, info, input)) {
      reject("scale_mode is \"static\", but input " + std::string(kInputs[input].name) +
             " is missing; give it, or use scale_mode \"dynamic\"");
    }
    const TensorView view = constant_input(info, input);
    const bool of_query = input == kInput_q_scale;
    if (view.present) {
      scale_count(input, view, of_query ? attributes_.num_heads : attributes_.kv_num_heads);
    }
  }
}

void Kernel::validate_channel_scales(const OrtKernelInfo* info) const {
  for (const InputIndex input : {kInput_past_key_scale, kInput_past_value_scale}) {
    const TensorView view = constant_input(info, input);
    if (view.present) check_steps(input, view);
  }
}

void Kernel::compute(OrtKernelContext* context) const {
  in_context(place_, [&] {
    size_t count = 0;
    check(api_, api_.KernelContext_GetInputCount(context, &count));
    Inputs inputs;
    inputs.types = types_;
    for (size_t index = 0; index < count && index < kInputCount; ++index) {
      const OrtValue* value = nullptr;
      check(api_, api_.KernelContext_GetInput(context, index, &value));
      inputs.views[index] = view_tensor(api_, value);
    }
    qfa_attention attention = make_request(attributes_, inputs);
    add_outputs(context, inputs.views[kInput_query].rank, &attention);
    run(context, attention);
  });
}

void* Kernel::allocate(OrtKernelContext* context, OutputIndex output, const int64_t* extents,
                       size_t rank) const {
  OrtValue* value = nullptr;
  void* data = nullptr;
  check(api_, api_.KernelContext_GetOutput(context, output, extents, rank, &value));
  check(api_, api_.GetTensorMutableData(value, &data));
  return data;
}

// The output has the layout of the query.
void Kernel::add_outputs(OrtKernelContext* context, size_t query_rank, qfa_attention* a) const {
  const int64_t rows = a->query_length, channels = a->v_channels, width = a->heads * channels;
  if (query_rank == 3) {
    const int64_t extents[] = {a->batch, rows, width};
    a->output = allocate(context, kOutput_output, extents, 3);
    a->output_row_stride = width;
    a->output_head_stride = channels;
  } else {
    const int64_t extents[] = {a->batch, a->heads, rows, channels};
    a->output = allocate(context, kOutput_output, extents, 4);
    a->output_row_stride = channels;
    a->output_head_stride = rows * channels;
  }
  a->output_batch_stride = rows * width;
  if (is_coded(attributes_)) {
    a->present_keys = add_codes(context, kKeySide, a->qk_channels, *a);
    a->present_values = add_codes(context, kValueSide, a->v_channels, *a);
  } else {
    a->present_key = add_present(context, kKeySide, a->qk_channels, *a);
    a->present_value = add_present(context, kValueSide, a->v_channels, *a);
  }
}

qfa_target Kernel::add_present(OrtKernelContext* context, const CacheSide& side, int64_t channels,
                               const qfa_attention& a) const {
  if (!wants_[side.present]) return {};
  const int64_t keys = rows_of_cache(a);
  const int64_t extents[] = {a.batch, a.kv_heads, keys, channels};
  void* data = allocate(context, side.present, extents, 4);
  return {data, a.kv_heads * keys * channels, keys * channels, channels};
}

qfa_codes Kernel::add_codes(OrtKernelContext* context, const CacheSide& side, int64_t channels,
                            const qfa_attention& a) const {
  if (!wants_[side.present]) return {};
  const bool of_keys = side.present == kOutput_present_key;
  const CacheLayout layout{&attributes_, of_keys, a.batch, a.kv_heads, channels};
  const auto add = [&](OutputIndex output, const CacheShape& shape) {
    return wants_[output] ? allocate(context, output, shape.extents, shape.rank) : nullptr;
  };
  const int64_t keys = rows_of_cache(a);
  void* codes = add(side.present, layout.codes(keys));
  void* scale = add(side.present_scale, layout.scales(keys));
  void* zero_point = add(side.present_zero_point, layout.scales(keys));
  void* open = of_keys ? add(kOutput_present_key_open, layout.open()) : nullptr;
  const qfa_codes present = layout.codes_at(keys, codes, scale, zero_point, open);
  if (a.kv_shared != 0 && keys > 0) {
    check_in_place(side, of_keys ? a.past_keys : a.past_values, present);
  }
  if (open != nullptr && present.codes != a.past_keys.codes) {
    clear_open_keys(layout, a, keys, present);
  }
  return present;
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
