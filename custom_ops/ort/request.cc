#include "ort/request.h"

#include <string.h>

#include <cmath>
#include <string>

#include "ort/cache.h"
#include "ort/status.h"

namespace qfa::ort {
namespace {

[[noreturn]] void reject(const std::string& text) { throw Failure(ORT_INVALID_ARGUMENT, text); }

// The schema writes the letters of both layouts as "(4-D) or (3-D)": those of the tensor's rank.
std::string letters_of(InputIndex input, size_t rank) {
  const std::string both = kInputs[input].shape;
  const size_t middle = both.find(" or ");
  if (middle == std::string::npos || input >= kInput_attn_mask) return both;
  return rank == 3 ? both.substr(middle + 4) : both.substr(0, middle);
}

std::string with_shape(InputIndex input, const TensorView& view) {
  return std::string(kInputs[input].name) + " " + letters_of(input, view.rank) + " = " +
         view.shape();
}

// Query, key or value, whichever layout it has.
struct Operand {
  int64_t batch, rows, channels;
  qfa_tensor tensor;
};

Operand read_operand(const Inputs& inputs, InputIndex input, int64_t heads, const char* attribute) {
  const TensorView& view = inputs.views[input];
  const int64_t* extents = view.extents;
  const qfa_dtype dtype = to_dtype(inputs.types[input]);
  if (view.rank == 3) {
    const int64_t width = extents[2];
    if (width % heads != 0) {
      reject(with_shape(input, view) + " has a last axis of " + std::to_string(width) +
             ", which is no multiple of " + attribute + " = " + std::to_string(heads));
    }
    return {extents[0],
            extents[1],
            width / heads,
            {view.data, dtype, extents[1] * width, width / heads, width}};
  }
  if (view.rank != 4) {
    reject(std::string(kInputs[input].name) + " " + kInputs[input].shape + " = " + view.shape() +
           " must have rank 3 or 4");
  }
  if (extents[1] != heads) {
    reject(with_shape(input, view) + " has another number of heads than " + attribute + " = " +
           std::to_string(heads));
  }
  const int64_t channels = extents[3], head = extents[2] * channels;
  return {extents[0], extents[2], channels, {view.data, dtype, heads * head, head, channels}};
}

// A tensor (B, Hkv, P, channels) of numbers.
qfa_tensor dense_tensor(const Inputs& inputs, InputIndex input) {
  const TensorView& view = inputs.views[input];
  const int64_t channels = view.extents[3], head = view.extents[2] * channels;
  return {view.data, to_dtype(inputs.types[input]), view.extents[1] * head, head, channels};
}

void expect_shape(const Attributes& attributes, const Inputs& inputs, InputIndex input,
                  const CacheShape& shape, InputIndex of) {
  if (shape.fits(inputs.views[input])) return;
  reject(with_shape(input, inputs.views[input]) + " does not fit " +
         with_shape(of, inputs.views[of]) + " with kv_format \"" + attributes.kv_format +
         "\"; expected " + shape.text());
}

// Everything but the length P.
void check_past(const Attributes& attributes, const Inputs& inputs, const CacheSide& side,
                int64_t channels, const qfa_attention& a) {
  const TensorView& view = inputs.views[side.past];
  const CacheLayout layout{&attributes, side.past == kInput_past_key, a.batch, a.kv_heads,
                           channels};
  expect_shape(attributes, inputs, side.past, layout.codes(view.rank == 4 ? view.extents[2] : 0),
               side.fresh);
}

qfa_codes read_codes(const Attributes& attributes, const Inputs& inputs, const CacheSide& side,
                     int64_t channels, const qfa_attention& a) {
  const bool of_keys = side.past == kInput_past_key;
  const CacheLayout layout{&attributes, of_keys, a.batch, a.kv_heads, channels};
  const auto data = [&](InputIndex input, const CacheShape& shape) -> void* {
    if (!inputs.views[input].present) return nullptr;
    expect_shape(attributes, inputs, input, shape, side.past);
    return const_cast<void*>(inputs.views[input].data);
  };
  void* codes = const_cast<void*>(inputs.views[side.past].data);
  void* scale = data(side.past_scale, layout.scales(a.past_length));
  void* zero_point = data(side.past_zero_point, layout.scales(a.past_length));
  void* open = of_keys ? data(kInput_past_key_open, layout.open()) : nullptr;
  return layout.codes_at(a.past_length, codes, scale, zero_point, open);
}

// A mask that is one true, and a bias or mean that is one zero, change nothing and must cost
// nothing.
bool is_neutral_mask(const TensorView& view) {
  return !view.present || (view.count() == 1 && *static_cast<const uint8_t*>(view.data) != 0);
}

// Bits of the number alone, so that they can be compared whatever the type.
bool is_single(const TensorView& view, OrtElementType type, uint16_t half, uint16_t bfloat) {
  if (view.count() != 1) return false;
  const auto* narrow = static_cast<const uint16_t*>(view.data);
  if (type == kType_float16) return *narrow == half;
  if (type == kType_bfloat16) return *narrow == bfloat;
  return *static_cast<const uint32_t*>(view.data) == uint32_t{bfloat} << 16;
}

bool is_single_zero(const TensorView& view, OrtElementType type) {
  return is_single(view, type, 0, 0) || is_single(view, type, 0x8000, 0x8000);
}

bool is_single_minus_infinity(const TensorView& view, OrtElementType type) {
  return is_single(view, type, 0xfc00, 0xff80);
}

void add_masks(const Inputs& inputs, qfa_attention& a) {
  const int64_t keys = a.past_length + (a.kv_shared != 0 ? 0 : a.key_length);
  const int64_t scores[4] = {a.batch, a.heads, a.query_length, keys};
  const TensorView& mask = inputs.views[kInput_attn_mask];
  if (!is_neutral_mask(mask)) a.mask = broadcast("attn_mask", mask, scores);
  const TensorView& bias = inputs.views[kInput_attn_bias];
  if (bias.present && !is_single_zero(bias, inputs.types[kInput_attn_bias])) {
    a.bias = broadcast("attn_bias", bias, scores);
    a.bias_dtype = to_dtype(inputs.types[kInput_attn_bias]);
  }
  const TensorView& lengths = inputs.views[kInput_kv_length];
  if (lengths.present) {
    a.kv_length_count = lengths.count();
    if (lengths.rank > 1 || (a.kv_length_count != 1 && a.kv_length_count != a.batch)) {
      reject(with_shape(kInput_kv_length, lengths) +
             " does not fit the batch B = " + std::to_string(a.batch) + " of " +
             with_shape(kInput_query, inputs.views[kInput_query]));
    }
    a.kv_length = static_cast<const int64_t*>(lengths.data);
  }
}

void add_sink(const Inputs& inputs, qfa_attention& a) {
  const TensorView& sink = inputs.views[kInput_sink];
  const OrtElementType type = inputs.types[kInput_sink];
  if (!sink.present || is_single_minus_infinity(sink, type)) return;
  if (sink.rank > 1 || (sink.count() != 1 && sink.count() != a.heads)) {
    reject(with_shape(kInput_sink, sink) + " does not fit the heads H = " +
           std::to_string(a.heads) + " of " + with_shape(kInput_query, inputs.views[kInput_query]));
  }
  a.sink = sink.data;
  a.sink_dtype = to_dtype(type);
  a.sink_per_head = sink.count() != 1 ? 1 : 0;
}

qfa_compute compute_of(const std::string& format) {
  if (format == "float") return QFA_COMPUTE_FLOAT;
  if (format == "fp8e4m3") return QFA_COMPUTE_FP8E4M3;
  if (format == "fp8e5m2") return QFA_COMPUTE_FP8E5M2;
  return QFA_COMPUTE_INT8;
}

void add_quantization(const Attributes& attributes, const Inputs& inputs, qfa_attention& a) {
  const TensorView& mean = inputs.views[kInput_k_mean];
  if (mean.present && !is_single_zero(mean, kType_float)) {
    if (mean.rank != 2 || mean.extents[0] != a.kv_heads || mean.extents[1] != a.qk_channels) {
      reject(with_shape(kInput_k_mean, mean) + " does not fit " +
             with_shape(kInput_key, inputs.views[kInput_key]));
    }
    a.k_mean = static_cast<const float*>(mean.data);
  }
  if (attributes.scale_mode != "static") return;
  const auto fill = [&](InputIndex input, int64_t heads, const float** data, int64_t* count) {
    *count = scale_count(input, inputs.views[input], heads);
    *data = static_cast<const float*>(inputs.views[input].data);
  };
  fill(kInput_q_scale, a.heads, &a.q_scale, &a.q_scale_count);
  fill(kInput_k_scale, a.kv_heads, &a.k_scale, &a.k_scale_count);
  fill(kInput_v_scale, a.kv_heads, &a.v_scale, &a.v_scale_count);
}

void add_operands(const Attributes& attributes, const Inputs& inputs, qfa_attention& a) {
  const auto shown = [&](InputIndex input) { return with_shape(input, inputs.views[input]); };
  const Operand query = read_operand(inputs, kInput_query, attributes.num_heads, "num_heads, H");
  const Operand key =
      read_operand(inputs, kInput_key, attributes.kv_num_heads, "kv_num_heads, Hkv");
  const Operand value =
      read_operand(inputs, kInput_value, attributes.kv_num_heads, "kv_num_heads, Hkv");
  for (const InputIndex input : {kInput_key, kInput_value}) {
    if ((input == kInput_key ? key : value).batch != query.batch) {
      reject(shown(input) + " and " + shown(kInput_query) + " differ in the batch B");
    }
  }
  if (key.channels != query.channels) {
    reject(shown(kInput_query) + " and " + shown(kInput_key) + " differ in the channels D");
  }
  if (value.rows != key.rows) {
    reject(shown(kInput_key) + " and " + shown(kInput_value) + " differ in the length T");
  }
  a.batch = query.batch;
  a.heads = attributes.num_heads;
  a.kv_heads = attributes.kv_num_heads;
  a.query_length = query.rows;
  a.key_length = key.rows;
  a.qk_channels = query.channels;
  a.v_channels = value.channels;
  a.query = query.tensor;
  a.key = key.tensor;
  a.value = value.tensor;
}

void add_past(const Attributes& attributes, const Inputs& inputs, qfa_attention& a) {
  const TensorView& past_key = inputs.views[kInput_past_key];
  const TensorView& past_value = inputs.views[kInput_past_value];
  a.kv_format = kv_format_of(attributes);
  a.kv_shared = is_shared(attributes) ? 1 : 0;
  if (!past_key.present) return;
  check_past(attributes, inputs, kKeySide, a.qk_channels, a);
  check_past(attributes, inputs, kValueSide, a.v_channels, a);
  if (past_key.extents[2] != past_value.extents[2]) {
    reject(with_shape(kInput_past_key, past_key) + " and " +
           with_shape(kInput_past_value, past_value) + " differ in the length P");
  }
  a.past_length = past_key.extents[2];
  if (!is_coded(attributes)) {
    a.past_key = dense_tensor(inputs, kInput_past_key);
    a.past_value = dense_tensor(inputs, kInput_past_value);
    return;
  }
  a.past_keys = read_codes(attributes, inputs, kKeySide, a.qk_channels, a);
  a.past_values = read_codes(attributes, inputs, kValueSide, a.v_channels, a);
  a.v_group = attributes.group_size;
  if (!has_channel_scales(attributes)) return;
  check_steps(kInput_past_key_scale, inputs.views[kInput_past_key_scale]);
  check_steps(kInput_past_value_scale, inputs.views[kInput_past_value_scale]);
  a.k_channel_scale = static_cast<const float*>(inputs.views[kInput_past_key_scale].data);
  a.v_channel_scale = static_cast<const float*>(inputs.views[kInput_past_value_scale].data);
}

// The buffers hold the tokens that kv_length counts, the T new ones last.
void check_lengths(const Inputs& inputs, const qfa_attention& a) {
  for (int64_t index = 0; index < a.kv_length_count; ++index) {
    int64_t length;
    memcpy(&length, a.kv_length + index, sizeof(length));
    if (length >= a.key_length && length <= a.past_length) continue;
    reject("kv_length holds " + std::to_string(length) + " at " + std::to_string(index) +
           ", but with kv_update \"shared\" it counts the T = " + std::to_string(a.key_length) +
           " new tokens and at most the P = " + std::to_string(a.past_length) + " rows of " +
           with_shape(kInput_past_key, inputs.views[kInput_past_key]));
  }
}

}  // namespace

void check_steps(InputIndex input, const TensorView& view) {
  const auto* steps = static_cast<const float*>(view.data);
  for (int64_t index = 0; index < view.count(); ++index) {
    if (std::isnormal(steps[index]) && steps[index] > 0.0f) continue;
    reject(std::string(kInputs[input].name) + " holds " + std::to_string(steps[index]) + " at " +
           std::to_string(index) + "; a scale must be finite and above zero");
  }
}

int64_t scale_count(InputIndex input, const TensorView& view, int64_t heads) {
  const int64_t count = view.count();
  if (view.rank > 1 || (count != 1 && count != heads)) {
    reject(std::string(kInputs[input].name) + " has shape " + view.shape() + "; expected () or (" +
           std::to_string(heads) + ",), one step or one per head");
  }
  check_steps(input, view);
  return count;
}

qfa_attention make_request(const Attributes& attributes, const Inputs& inputs) {
  qfa_attention a{};
  a.struct_size = sizeof(a);
  add_operands(attributes, inputs, a);
  add_past(attributes, inputs, a);
  a.scale = attributes.scale;
  a.is_causal = static_cast<int32_t>(attributes.is_causal);
  a.rotation = attributes.rotate == "hadamard" ? QFA_ROTATE_HADAMARD : QFA_ROTATE_NONE;
  a.compute = compute_of(attributes.compute_format);
  a.softcap = attributes.softcap;
  a.queries_at_end = static_cast<int32_t>(attributes.queries_at_end);
  a.has_left_window = attributes.left_window >= 0 ? 1 : 0;
  a.left_window = attributes.left_window;
  a.has_right_window = attributes.right_window >= 0 ? 1 : 0;
  a.right_window = attributes.right_window;
  add_masks(inputs, a);
  if (a.kv_shared != 0) check_lengths(inputs, a);
  add_sink(inputs, a);
  add_quantization(attributes, inputs, a);
  return a;
}

}  // namespace qfa::ort
