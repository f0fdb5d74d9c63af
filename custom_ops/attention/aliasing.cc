#include "attention/aliasing.h"

#include <stdint.h>

#include "attention/dtype.h"
#include "attention/status.h"

namespace qfa {
namespace {

// Bytes from `low` up to but not including `high`, relative to address 0.
struct Span {
  int64_t low, high;
  bool fits;
};

struct Axis {
  int64_t extent, stride;
};

Span span_of(const void* data, int64_t element_bytes, const Axis (&axes)[4]) {
  Span span = {0, element_bytes, true};
  for (const Axis& axis : axes) {
    if (axis.extent == 0) return {0, 0, true};
    int64_t reach;
    if (__builtin_mul_overflow(axis.extent - 1, axis.stride, &reach) ||
        __builtin_mul_overflow(reach, element_bytes, &reach) ||
        __builtin_add_overflow(reach < 0 ? span.low : span.high, reach,
                               reach < 0 ? &span.low : &span.high)) {
      return {0, 0, false};
    }
  }
  const int64_t start = static_cast<int64_t>(reinterpret_cast<intptr_t>(data));
  if (__builtin_add_overflow(span.low, start, &span.low) ||
      __builtin_add_overflow(span.high, start, &span.high)) {
    return {0, 0, false};
  }
  return span;
}

Span span_of(const qfa_attention& a, const qfa_tensor& t, int64_t heads, int64_t rows,
             int64_t channels) {
  if (t.data == nullptr) return {0, 0, true};
  return span_of(
      t.data, element_size(t.dtype),
      {{a.batch, t.batch_stride}, {heads, t.head_stride}, {rows, t.row_stride}, {channels, 1}});
}

Span span_of(const qfa_attention& a, const qfa_target& t, qfa_dtype dtype, int64_t heads,
             int64_t rows, int64_t channels) {
  return span_of(a, qfa_tensor{t.data, dtype, t.batch_stride, t.head_stride, t.row_stride}, heads,
                 rows, channels);
}

Span span_of(const qfa_attention& a, const qfa_mask& m, int64_t keys, int64_t bytes) {
  if (m.data == nullptr) return {0, 0, true};
  return span_of(m.data, bytes,
                 {{a.batch, m.strides[0]},
                  {a.heads, m.strides[1]},
                  {a.query_length, m.strides[2]},
                  {keys, m.strides[3]}});
}

// Numbers that lie side by side, such as scales.
Span span_of(const void* data, int64_t bytes, int64_t rows, int64_t columns) {
  if (data == nullptr) return {0, 0, true};
  return span_of(data, bytes, {{1, 0}, {1, 0}, {rows, columns}, {columns, 1}});
}

bool overlap(const Span& a, const Span& b) {
  return a.low < a.high && b.low < b.high && a.low < b.high && b.low < a.high;
}

bool is_in_place(const qfa_attention& a) {
  return a.query.data == a.output && a.qk_channels == a.v_channels &&
         a.query.batch_stride == a.output_batch_stride &&
         a.query.head_stride == a.output_head_stride && a.query.row_stride == a.output_row_stride;
}

// Memory that is read or written.
struct Region {
  const char* name;
  Span span;
  // For one that is written: the index of the input that it may be, and whether it is just that.
  int twin;
  bool is_twin;
};

// At most: 13 inputs of numbers, and four arrays of each side of a quantized cache.
class Regions {
 public:
  void add(const char* name, const Span& span, int twin = -1, bool is_twin = false) {
    all_[count_++] = {name, span, twin, is_twin};
  }
  const Region* begin() const { return all_; }
  const Region* end() const { return all_ + count_; }
  int count() const { return count_; }

 private:
  Region all_[24];
  int count_ = 0;
};

bool same_strides(const int64_t (&a)[3], const int64_t (&b)[3]) {
  return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

// The arrays of one side of a quantized cache of `rows` tokens; `twin`: of the first of the past's
// arrays, for the present.
void add_codes(const qfa_attention& a, const char* const (&names)[4], const qfa_codes& c,
               bool holds_keys, int64_t rows, Regions& regions, const qfa_codes* past, int twin) {
  const bool is_int4 = a.kv_format == QFA_KV_INT4;
  const int64_t channels = holds_keys ? a.qk_channels : a.v_channels;
  int64_t scale_rows = rows, scale_columns = 1, scale_bytes = 4;
  if (is_int4) {
    scale_bytes = 2;
    scale_rows = holds_keys ? rows / QFA_INT4_KEY_GROUP + (rows % QFA_INT4_KEY_GROUP != 0) : rows;
    scale_columns = holds_keys ? channels : (channels + a.v_group - 1) / a.v_group;
  }
  const auto span = [&](const void* data, const int64_t (&strides)[3], int64_t bytes,
                        int64_t extent, int64_t columns) {
    if (data == nullptr) return Span{0, 0, true};
    return span_of(
        data, bytes,
        {{a.batch, strides[0]}, {a.kv_heads, strides[1]}, {extent, strides[2]}, {columns, 1}});
  };
  const int64_t open_bytes = element_size(a.key.dtype);
  const Span spans[] = {
      span(c.codes, c.codes_strides, 1, rows, is_int4 ? (channels + 1) / 2 : channels),
      span(c.scale, c.scale_strides, scale_bytes, scale_rows, scale_columns),
      span(is_int4 ? c.zero_point : nullptr, c.scale_strides, 1, scale_rows, scale_columns),
      span(is_int4 && holds_keys ? c.open : nullptr, c.open_strides, open_bytes, QFA_INT4_KEY_GROUP,
           channels)};
  const bool together =
      past != nullptr && c.codes == past->codes && c.scale == past->scale &&
      c.zero_point == past->zero_point && c.open == past->open &&
      same_strides(c.codes_strides, past->codes_strides) &&
      (c.scale == nullptr || same_strides(c.scale_strides, past->scale_strides)) &&
      (c.open == nullptr || same_strides(c.open_strides, past->open_strides));
  for (int i = 0; i < 4; ++i) {
    regions.add(names[i], spans[i], twin < 0 ? -1 : twin + i, together);
  }
}

bool is_twin(const qfa_tensor& past, const qfa_target& present) {
  return present.data == past.data && present.batch_stride == past.batch_stride &&
         present.head_stride == past.head_stride && present.row_stride == past.row_stride;
}

}  // namespace

qfa_status check_aliasing(const qfa_attention& a) {
  const int64_t keys = a.past_length + (a.kv_shared != 0 ? 0 : a.key_length);
  const qfa_target output = {a.output, a.output_batch_stride, a.output_head_stride,
                             a.output_row_stride};
  Regions inputs, targets;
  inputs.add("query", span_of(a, a.query, a.heads, a.query_length, a.qk_channels));
  inputs.add("past_key", span_of(a, a.past_key, a.kv_heads, a.past_length, a.qk_channels));
  inputs.add("past_value", span_of(a, a.past_value, a.kv_heads, a.past_length, a.v_channels));
  constexpr int kQuery = 0, kPastKey = 1, kPastValue = 2, kPastKeys = 3, kPastValues = 7;
  add_codes(a, {"past_keys.codes", "past_keys.scale", "past_keys.zero_point", "past_keys.open"},
            a.past_keys, true, a.past_length, inputs, nullptr, -1);
  add_codes(
      a, {"past_values.codes", "past_values.scale", "past_values.zero_point", "past_values.open"},
      a.past_values, false, a.past_length, inputs, nullptr, -1);
  inputs.add("key", span_of(a, a.key, a.kv_heads, a.key_length, a.qk_channels));
  inputs.add("value", span_of(a, a.value, a.kv_heads, a.key_length, a.v_channels));
  inputs.add("mask", span_of(a, a.mask, keys, 1));
  inputs.add("bias", span_of(a, a.bias, keys, element_size(a.bias_dtype)));
  inputs.add("q_scale", span_of(a.q_scale, 4, 1, a.q_scale_count));
  inputs.add("k_scale", span_of(a.k_scale, 4, 1, a.k_scale_count));
  inputs.add("v_scale", span_of(a.v_scale, 4, 1, a.v_scale_count));
  inputs.add("k_mean", span_of(a.k_mean, 4, a.kv_heads, a.qk_channels));
  inputs.add("k_channel_scale", span_of(a.k_channel_scale, 4, a.kv_heads, a.qk_channels));
  inputs.add("v_channel_scale", span_of(a.v_channel_scale, 4, a.kv_heads, a.v_channels));
  inputs.add("kv_length", span_of(a.kv_length, 8, 1, a.kv_length_count));
  inputs.add("sink",
             span_of(a.sink, element_size(a.sink_dtype), 1, a.sink_per_head != 0 ? a.heads : 1));

  targets.add("output", span_of(a, output, a.query.dtype, a.heads, a.query_length, a.v_channels),
              kQuery, is_in_place(a));
  targets.add("present_key",
              span_of(a, a.present_key, a.key.dtype, a.kv_heads, keys, a.qk_channels), kPastKey,
              is_twin(a.past_key, a.present_key));
  targets.add("present_value",
              span_of(a, a.present_value, a.value.dtype, a.kv_heads, keys, a.v_channels),
              kPastValue, is_twin(a.past_value, a.present_value));
  add_codes(
      a,
      {"present_keys.codes", "present_keys.scale", "present_keys.zero_point", "present_keys.open"},
      a.present_keys, true, keys, targets, &a.past_keys, kPastKeys);
  add_codes(a,
            {"present_values.codes", "present_values.scale", "present_values.zero_point",
             "present_values.open"},
            a.present_values, false, keys, targets, &a.past_values, kPastValues);

  for (const Region& input : inputs) {
    if (!input.span.fits) {
      return fail(QFA_INVALID_SHAPE, "the strides of %s overflow", input.name);
    }
  }
  for (const Region& target : targets) {
    if (!target.span.fits) {
      return fail(QFA_INVALID_SHAPE, "the strides of %s overflow", target.name);
    }
    for (const Region& other : targets) {
      if (&other < &target && overlap(target.span, other.span)) {
        return fail(QFA_INVALID_ARGUMENT, "%s overlaps %s; give each memory of its own",
                    target.name, other.name);
      }
    }
    for (const Region& input : inputs) {
      const bool may_overlap = target.is_twin && &input == inputs.begin() + target.twin;
      if (!may_overlap && overlap(target.span, input.span)) {
        return fail(
            QFA_INVALID_ARGUMENT,
            "%s overlaps %s, which is still read while %s is written; give %s memory of its "
            "own",
            target.name, input.name, target.name, target.name);
      }
    }
  }
  return QFA_OK;
}

}  // namespace qfa
