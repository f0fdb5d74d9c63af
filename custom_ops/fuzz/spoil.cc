#include "spoil.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include <initializer_list>

namespace qfa::fuzz {
namespace {

constexpr int64_t kHuge[] = {INT64_MAX, INT64_MAX / 2, int64_t{1} << 62, int64_t{1} << 61};
constexpr float kWrongScales[] = {0.0f, -1.0f, NAN, INFINITY, 1e-42f};

template <typename Enum>
Enum unknown(Bytes& bytes, int32_t known) {
  const int32_t any = static_cast<int32_t>(bytes.word());
  return static_cast<Enum>(any >= 0 && any < known ? -1 - any : any);
}

const char* spoil_extents(Bytes& bytes, qfa_attention& a) {
  int64_t* extents[] = {&a.batch,      &a.heads,       &a.kv_heads,    &a.query_length,
                        &a.key_length, &a.past_length, &a.qk_channels, &a.v_channels};
  const uint32_t which = bytes.below(8);
  switch (bytes.below(3)) {
    case 0:
      *extents[which] = -1 - static_cast<int64_t>(bytes.word() >> 1);
      return "a negative extent";
    case 1:
      // One more or less head changes what belongs to whom, and only some are a fault.
      *extents[which] = kHuge[bytes.below(4)];
      return "an extent that overflows";
    default:
      a.qk_channels = bytes.below(2) == 0 ? 0 : 1025 + bytes.below(2000);
      return "channels out of range";
  }
}

const char* spoil_pointers(Bytes& bytes, qfa_attention& a) {
  switch (bytes.below(6)) {
    case 0:
      a.query.data = nullptr;
      return "no query";
    case 1:
      a.output = nullptr;
      return "no output";
    case 2:
      if (a.key_length == 0) return nullptr;
      a.key.data = nullptr;
      return "no key";
    case 3:
      if (a.key_length == 0) return nullptr;
      a.value.data = nullptr;
      return "no value";
    case 4:
      if (a.past_length == 0 || a.kv_format != QFA_KV_FLOAT) return nullptr;
      a.past_key.data = nullptr;
      return "no past key";
    default:
      if (a.past_length == 0 || a.kv_format != QFA_KV_FLOAT) return nullptr;
      a.past_value.data = nullptr;
      return "no past value";
  }
}

const char* spoil_enums(Bytes& bytes, qfa_attention& a) {
  switch (bytes.below(7)) {
    case 0:
      a.query.dtype = unknown<qfa_dtype>(bytes, 3);
      return "an unknown type of the query";
    case 1:
      a.key.dtype = unknown<qfa_dtype>(bytes, 3);
      return "an unknown type of keys";
    case 2:
      a.value.dtype = unknown<qfa_dtype>(bytes, 3);
      return "an unknown type of values";
    case 3:
      a.bias_dtype = unknown<qfa_dtype>(bytes, 3);
      return "an unknown type of the bias";
    case 4:
      a.sink_dtype = unknown<qfa_dtype>(bytes, 3);
      return "an unknown type of the sink";
    case 5:
      a.rotation = unknown<qfa_rotation>(bytes, 2);
      return "an unknown rotation";
    default:
      a.compute = unknown<qfa_compute>(bytes, 16);
      return "an unknown compute format";
  }
}

const char* spoil_values(Bytes& bytes, qfa_attention& a) {
  const float wrong = kWrongScales[bytes.below(5)];
  switch (bytes.below(5)) {
    case 0:
      a.scale = bytes.below(2) == 0 ? NAN : -INFINITY;
      return "a scale that is not finite";
    case 1:
      a.softcap = bytes.below(2) == 0 ? NAN : -1.0f;
      return "an impossible softcap";
    case 2:
      a.has_left_window = 1;
      a.left_window = INT64_MIN + bytes.below(256);
      return "a negative window";
    case 3: {
      static thread_local float scale;
      scale = wrong;
      a.k_scale = &scale;
      a.k_scale_count = 1;
      return "a static scale that is none";
    }
    default: {
      static thread_local float scales[4] = {1.0f, 1.0f, 1.0f, 1.0f};
      a.q_scale = scales;
      a.q_scale_count = a.heads + 2 + static_cast<int64_t>(bytes.word() >> 8);
      return "a wrong number of static scales";
    }
  }
}

const char* spoil_strides(Bytes& bytes, qfa_attention& a) {
  const int64_t stride = bytes.below(2) == 0 ? INT64_MAX : INT64_MIN;
  switch (bytes.below(4)) {
    case 0:
      if (a.heads < 2) return nullptr;
      a.query.head_stride = stride;
      return "strides of the query that overflow";
    case 1:
      if (a.key_length < 2) return nullptr;
      a.key.row_stride = stride;
      return "strides of the keys that overflow";
    case 2:
      if (a.batch < 2) return nullptr;
      a.output_batch_stride = stride;
      return "strides of the output that overflow";
    default:
      if (a.mask.data == nullptr || a.past_length + a.key_length < 2) return nullptr;
      a.mask.strides[3] = stride;
      // Strides of a mask count bytes, and two rows may still fit.
      a.mask.strides[2] = stride;
      return a.query_length < 2 ? nullptr : "strides of the mask that overflow";
  }
}

const char* spoil_memory(Bytes& bytes, qfa_attention& a) {
  char* output = static_cast<char*>(a.output);
  switch (bytes.below(3)) {
    case 0:
      if (a.key_length == 0) return nullptr;
      a.key.data = output;
      return "keys in the output";
    case 1:
      if (a.key_length == 0) return nullptr;
      a.value.data = output;
      return "values in the output";
    default:
      a.sink = output;
      a.sink_per_head = 0;
      return "the sink in the output";
  }
}

const char* spoil_size(Bytes& bytes, qfa_attention& a) {
  const uint32_t size = static_cast<uint32_t>(bytes.word());
  // Longer ones are read, and must be there.
  if (size >= sizeof(a) && size <= 4096) return nullptr;
  for (const size_t known :
       {offsetof(qfa_attention, compute), offsetof(qfa_attention, kv_format)}) {
    if (size == known) return nullptr;
  }
  a.struct_size = size;
  return "a wrong size of the request";
}

const char* spoil_lengths(Bytes& bytes, qfa_attention& a) {
  static thread_local int64_t length;
  if (a.kv_shared == 0) return nullptr;
  if (bytes.below(4) == 0) {
    a.kv_length = nullptr;
    return "a shared cache of unknown length";
  }
  length = bytes.below(2) == 0 ? a.key_length - 1 : a.past_length + 1;
  if (bytes.below(2) == 0) length = static_cast<int64_t>(bytes.word() | uint64_t{1} << 63);
  a.kv_length = &length;
  a.kv_length_count = 1;
  return "more or fewer tokens than a shared cache can hold";
}

const char* spoil_cache(Bytes& bytes, qfa_attention& a) {
  const bool has_codes = a.kv_format != QFA_KV_FLOAT;
  switch (bytes.below(7)) {
    case 0:
      a.kv_format = unknown<qfa_kv_format>(bytes, 5);
      return "an unknown cache format";
    case 1:
      if (!has_codes) return nullptr;
      a.compute = a.compute == QFA_COMPUTE_INT8 ? QFA_COMPUTE_FLOAT : QFA_COMPUTE_INT8;
      return "a cache that is computed otherwise";
    case 2:
      if (a.kv_format != QFA_KV_INT4) return nullptr;
      a.v_group = bytes.below(2) == 0 ? -32 * static_cast<int64_t>(bytes.below(3)) : 33;
      return "a group of channels that is none";
    case 3:
      if (!has_codes || a.past_length == 0) return nullptr;
      (bytes.below(2) == 0 ? a.past_keys : a.past_values).codes = nullptr;
      return "no codes";
    case 4:
      if (!has_codes || a.past_length == 0 || a.k_channel_scale != nullptr) return nullptr;
      (bytes.below(2) == 0 ? a.past_keys : a.past_values).scale = nullptr;
      return "no scales of codes";
    case 5:
      if (!has_codes || a.past_length == 0 || a.kv_heads == 0) return nullptr;
      a.past_values.codes = a.output;
      return "codes in the output";
    default:
      return spoil_lengths(bytes, a);
  }
}

}  // namespace

const char* spoil(Bytes& bytes, qfa_attention& attention) {
  switch (bytes.below(8)) {
    case 0:
      return spoil_extents(bytes, attention);
    case 1:
      return spoil_pointers(bytes, attention);
    case 2:
      return spoil_enums(bytes, attention);
    case 3:
      return spoil_values(bytes, attention);
    case 4:
      return spoil_strides(bytes, attention);
    case 5:
      return spoil_memory(bytes, attention);
    case 6:
      return spoil_cache(bytes, attention);
    default:
      return spoil_size(bytes, attention);
  }
}

void scramble(Bytes& bytes, qfa_attention& attention, void* memory) {
  uint8_t* raw = reinterpret_cast<uint8_t*>(&attention);
  const bool is_sparse = bytes.below(2) == 1;
  for (size_t i = 0; i < sizeof(attention); ++i) {
    raw[i] = is_sparse && bytes.below(4) != 3 ? 0 : bytes.byte();
  }
  const auto pointer = [&] { return bytes.below(2) == 0 ? nullptr : memory; };
  attention.struct_size = sizeof(attention);
  attention.query.data = pointer();
  attention.key.data = pointer();
  attention.value.data = pointer();
  attention.mask.data = pointer();
  attention.bias.data = pointer();
  attention.output = pointer();
  attention.past_key.data = pointer();
  attention.past_value.data = pointer();
  attention.present_key.data = pointer();
  attention.present_value.data = pointer();
  attention.sink = pointer();
  // Read for as many numbers as the request says there are: no caller can be helped who lies there.
  attention.q_scale = attention.k_scale = attention.v_scale = attention.k_mean = nullptr;
  attention.kv_length = nullptr;
  attention.k_channel_scale = attention.v_channel_scale = nullptr;
  for (qfa_codes* codes : {&attention.past_keys, &attention.past_values, &attention.present_keys,
                           &attention.present_values}) {
    codes->codes = pointer();
    codes->scale = pointer();
    codes->zero_point = pointer();
    codes->open = pointer();
  }
}

}  // namespace qfa::fuzz
