#include "ort/cache.h"

#include <string.h>

#include <initializer_list>

#include "ort/status.h"

namespace qfa::ort {
namespace {

[[noreturn]] void reject(const std::string& text) { throw Failure(ORT_INVALID_ARGUMENT, text); }

std::string name_of(InputIndex input) { return kInputs[input].name; }
std::string name_of(OutputIndex output) { return kOutputs[output].name; }

std::string format_of(const Attributes& attributes) {
  return "kv_format is \"" + attributes.kv_format + "\"" +
         (has_channel_scales(attributes) ? " with scales per channel" : "");
}

// An attribute may be any number: no sum that could overflow.
int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

// Where both are absent, the node has no cache to read.
void check_past(const Attributes& attributes, const OrtElementType* types) {
  const auto is_given = [&](InputIndex input) { return types[input] != kType_undefined; };
  if (is_given(kInput_past_key) != is_given(kInput_past_value)) {
    reject("only one of past_key and past_value is given; give both or neither");
  }
  if (is_given(kInput_past_key)) return;
  if (is_coded(attributes) || is_shared(attributes)) {
    reject("past_key and past_value are missing, but " +
           (is_coded(attributes)
                ? format_of(attributes) + "; give them, P = 0 where nothing is past"
                : std::string("kv_update is \"shared\"; give the buffers")));
  }
}

// An input that a format must have, or must not have.
void check_input(const Attributes& attributes, const OrtElementType* types, InputIndex input,
                 bool belongs, OrtElementType type, const char* type_name) {
  if (types[input] == kType_undefined) {
    if (!belongs) return;
    reject(name_of(input) + " is missing, but " + format_of(attributes));
  }
  if (!belongs) {
    reject(name_of(input) + " is given, but " + format_of(attributes) + "; leave it out");
  }
  if (types[input] != type) {
    reject(name_of(input) + " must have the element type " + type_name + ", as " +
           format_of(attributes));
  }
}

// Without the scales a cache of codes is worth nothing, and the other way round.
void check_output(const Attributes& attributes, const bool* wants, OutputIndex output,
                  OutputIndex codes, bool belongs) {
  if (wants[output] && !belongs) {
    reject("output " + name_of(output) + " is asked for, but " + format_of(attributes) +
           "; leave it out");
  }
  if (belongs && wants[output] != wants[codes]) {
    reject("only one of the outputs " + name_of(codes) + " and " + name_of(output) +
           " is asked for, but " + format_of(attributes) + "; ask for both or neither");
  }
}

}  // namespace

std::string CacheShape::text() const {
  std::string text = "(";
  for (size_t axis = 0; axis < rank; ++axis) {
    text += (axis == 0 ? "" : ", ") + std::to_string(extents[axis]);
  }
  return text + ")";
}

bool CacheShape::fits(const TensorView& view) const {
  if (view.rank != rank) return false;
  for (size_t axis = 0; axis < rank; ++axis) {
    if (view.extents[axis] != extents[axis]) return false;
  }
  return true;
}

CacheShape CacheLayout::codes(int64_t rows) const {
  const bool packed = has_zero_points(*attributes);
  return {4, {batch, kv_heads, rows, packed ? ceil_div(channels, 2) : channels}};
}

CacheShape CacheLayout::scales(int64_t rows) const {
  if (has_channel_scales(*attributes)) return {2, {kv_heads, channels}};
  if (!has_zero_points(*attributes)) return {3, {batch, kv_heads, rows}};
  if (of_keys) return {4, {batch, kv_heads, ceil_div(rows, QFA_INT4_KEY_GROUP), channels}};
  return {4, {batch, kv_heads, rows, ceil_div(channels, attributes->group_size)}};
}

CacheShape CacheLayout::open() const {
  return {4, {batch, kv_heads, QFA_INT4_KEY_GROUP, channels}};
}

qfa_codes CacheLayout::codes_at(int64_t rows, void* codes, void* scale, void* zero_point,
                                void* open) const {
  qfa_codes side{};
  const auto dense = [](const CacheShape& shape, int64_t (&strides)[3]) {
    strides[2] = shape.rank == 4 ? shape.extents[3] : 1;
    strides[1] = strides[2] * shape.extents[2];
    strides[0] = strides[1] * shape.extents[1];
  };
  side.codes = codes;
  dense(this->codes(rows), side.codes_strides);
  if (!has_channel_scales(*attributes)) {
    side.scale = scale;
    side.zero_point = zero_point;
    dense(scales(rows), side.scale_strides);
  }
  side.open = open;
  dense(this->open(), side.open_strides);
  return side;
}

bool is_coded(const Attributes& attributes) { return attributes.kv_format != "float"; }

bool is_shared(const Attributes& attributes) { return attributes.kv_update == "shared"; }

bool has_channel_scales(const Attributes& attributes) {
  return attributes.kv_granularity == "channel";
}

bool has_zero_points(const Attributes& attributes) { return attributes.kv_format == "int4"; }

qfa_kv_format kv_format_of(const Attributes& attributes) {
  if (attributes.kv_format == "int8") return QFA_KV_INT8;
  if (attributes.kv_format == "int4") return QFA_KV_INT4;
  if (attributes.kv_format == "fp8e4m3") return QFA_KV_FP8E4M3;
  if (attributes.kv_format == "fp8e5m2") return QFA_KV_FP8E5M2;
  return QFA_KV_FLOAT;
}

void check_cache_tensors(const Attributes& attributes, const OrtElementType* types,
                         const bool* wants) {
  const bool coded = is_coded(attributes), offset = has_zero_points(attributes);
  check_past(attributes, types);
  if (is_shared(attributes) && types[kInput_kv_length] == kType_undefined) {
    reject(
        "kv_length is missing, but kv_update is \"shared\"; give the tokens of each batch, new "
        "ones "
        "included");
  }
  for (const CacheSide& side : {kKeySide, kValueSide}) {
    if (!coded && types[side.past] != kType_undefined && types[side.past] != types[side.fresh]) {
      reject(
          "past_key and past_value must have the element type of key and value, as kv_format is "
          "\"float\"; insert a Cast before the node");
    }
    const bool is_signed = attributes.kv_format == "int8";
    if (coded) {
      check_input(attributes, types, side.past, true, is_signed ? kType_int8 : kType_uint8,
                  is_signed ? "int8" : "uint8");
    }
    check_input(attributes, types, side.past_scale, coded, offset ? kType_float16 : kType_float,
                offset ? "float16" : "float");
    check_input(attributes, types, side.past_zero_point, offset, kType_int8, "int8");
    check_output(attributes, wants, side.present_scale, side.present,
                 coded && !has_channel_scales(attributes));
    check_output(attributes, wants, side.present_zero_point, side.present, offset);
  }
  check_input(attributes, types, kInput_past_key_open, offset, types[kInput_key], "of key");
  check_output(attributes, wants, kOutput_present_key_open, kOutput_present_key, offset);
}

void clear_open_keys(const CacheLayout& layout, const qfa_attention& a, int64_t rows,
                     const qfa_codes& present) {
  const CacheShape codes = layout.codes(rows), scales = layout.scales(rows), open = layout.open();
  const int64_t scale_size = 2, open_size = a.key.dtype == QFA_FLOAT32 ? 4 : 2;
  // Rows `first` and later of one head, whose elements take `size` bytes.
  const auto clear = [&](void* data, const CacheShape& shape, int64_t head, int64_t first,
                         int64_t size) {
    if (first >= shape.extents[2]) return;
    const int64_t row = shape.extents[3] * size;
    memset(static_cast<char*>(data) + (head * shape.extents[2] + first) * row, 0,
           static_cast<size_t>((shape.extents[2] - first) * row));
  };
  for (int64_t head = 0; head < a.batch * a.kv_heads; ++head) {
    int64_t stored = rows;
    if (a.kv_shared != 0) {
      const int64_t index = a.kv_length_count == 1 ? 0 : head / a.kv_heads;
      memcpy(&stored, a.kv_length + index, sizeof(stored));
    }
    const int64_t complete = stored / QFA_INT4_KEY_GROUP;
    clear(present.codes, codes, head, complete * QFA_INT4_KEY_GROUP, 1);
    clear(present.scale, scales, head, complete, scale_size);
    clear(present.zero_point, scales, head, complete, 1);
    clear(present.open, open, head, stored % QFA_INT4_KEY_GROUP, open_size);
  }
}

void check_in_place(const CacheSide& side, const qfa_codes& past, const qfa_codes& present) {
  const bool is_same = past.codes == present.codes;
  const auto check = [&](OutputIndex output, const void* before, const void* after) {
    if (after == nullptr || (before == after) == is_same) return;
    reject("output " + name_of(is_same ? side.present : output) +
           " is in the buffer of its past, " + name_of(is_same ? output : side.present) +
           " is not; bind all tensors of a cache in place, or none");
  };
  check(side.present_scale, past.scale, present.scale);
  check(side.present_zero_point, past.zero_point, present.zero_point);
  check(kOutput_present_key_open, past.open, present.open);
}

}  // namespace qfa::ort
