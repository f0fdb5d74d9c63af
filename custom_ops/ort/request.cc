#include "ort/request.h"

#include <cmath>
#include <string>

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

// The past of key or value: (B, Hkv, P, channels).
Operand read_past(const Inputs& inputs, InputIndex input, InputIndex of, const Operand& now,
                  int64_t kv_heads) {
  const TensorView& view = inputs.views[input];
  const int64_t* extents = view.extents;
  if (view.rank != 4 || extents[0] != now.batch || extents[1] != kv_heads ||
      extents[3] != now.channels) {
    reject(with_shape(input, view) + " does not fit " + with_shape(of, inputs.views[of]) +
           " with Hkv = " + std::to_string(kv_heads));
  }
  const int64_t head = extents[2] * extents[3];
  return {extents[0],
          extents[2],
          extents[3],
          {view.data, to_dtype(inputs.types[input]), kv_heads * head, head, extents[3]}};
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
  const int64_t scores[4] = {a.batch, a.heads, a.query_length, a.past_length + a.key_length};
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

  const TensorView& past_key = inputs.views[kInput_past_key];
  const TensorView& past_value = inputs.views[kInput_past_value];
  if (!past_key.present) return;
  const Operand past_k = read_past(inputs, kInput_past_key, kInput_key, key, a.kv_heads);
  const Operand past_v = read_past(inputs, kInput_past_value, kInput_value, value, a.kv_heads);
  if (past_k.rows != past_v.rows) {
    reject(with_shape(kInput_past_key, past_key) + " and " +
           with_shape(kInput_past_value, past_value) + " differ in the length P");
  }
  a.past_length = past_k.rows;
  a.past_key = past_k.tensor;
  a.past_value = past_v.tensor;
}

}  // namespace

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

qfa_attention make_request(const Attributes& attributes, const Inputs& inputs) {
  qfa_attention a{};
  a.struct_size = sizeof(a);
  add_operands(attributes, inputs, a);
  a.scale = attributes.scale;
  a.is_causal = static_cast<int32_t>(attributes.is_causal);
  a.rotation = attributes.rotate == "hadamard" ? QFA_ROTATE_HADAMARD : QFA_ROTATE_NONE;
  a.compute = attributes.compute_format == "float" ? QFA_COMPUTE_FLOAT : QFA_COMPUTE_INT8;
  a.softcap = attributes.softcap;
  a.queries_at_end = static_cast<int32_t>(attributes.queries_at_end);
  a.has_left_window = attributes.left_window >= 0 ? 1 : 0;
  a.left_window = attributes.left_window;
  a.has_right_window = attributes.right_window >= 0 ? 1 : 0;
  a.right_window = attributes.right_window;
  add_masks(inputs, a);
  add_sink(inputs, a);
  add_quantization(attributes, inputs, a);
  return a;
}

}  // namespace qfa::ort
