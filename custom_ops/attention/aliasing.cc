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

Span span_of(const qfa_attention& a, const qfa_mask& m, int64_t bytes) {
  if (m.data == nullptr) return {0, 0, true};
  return span_of(m.data, bytes,
                 {{a.batch, m.strides[0]},
                  {a.heads, m.strides[1]},
                  {a.query_length, m.strides[2]},
                  {a.past_length + a.key_length, m.strides[3]}});
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

}  // namespace

qfa_status check_aliasing(const qfa_attention& a) {
  const int64_t keys = a.past_length + a.key_length;
  const qfa_target output = {a.output, a.output_batch_stride, a.output_head_stride,
                             a.output_row_stride};
  const struct {
    const char* name;
    Span span;
  } inputs[] =
      {
          {"query", span_of(a, a.query, a.heads, a.query_length, a.qk_channels)},
          {"key", span_of(a, a.key, a.kv_heads, a.key_length, a.qk_channels)},
          {"value", span_of(a, a.value, a.kv_heads, a.key_length, a.v_channels)},
          {"mask", span_of(a, a.mask, 1)},
          {"bias", span_of(a, a.bias, element_size(a.bias_dtype))},
          {"q_scale", span_of(a.q_scale, 4, 1, a.q_scale_count)},
          {"k_scale", span_of(a.k_scale, 4, 1, a.k_scale_count)},
          {"v_scale", span_of(a.v_scale, 4, 1, a.v_scale_count)},
          {"k_mean", span_of(a.k_mean, 4, a.kv_heads, a.qk_channels)},
          {"kv_length", span_of(a.kv_length, 8, 1, a.kv_length_count)},
          {"sink",
           span_of(a.sink, element_size(a.sink_dtype), 1, a.sink_per_head != 0 ? a.heads : 1)},
          {"past_key", span_of(a, a.past_key, a.kv_heads, a.past_length, a.qk_channels)},
          {"past_value", span_of(a, a.past_value, a.kv_heads, a.past_length, a.v_channels)},
      },
    targets[] = {
        {"output", span_of(a, output, a.query.dtype, a.heads, a.query_length, a.v_channels)},
        {"present_key", span_of(a, a.present_key, a.key.dtype, a.kv_heads, keys, a.qk_channels)},
        {"present_value",
         span_of(a, a.present_value, a.value.dtype, a.kv_heads, keys, a.v_channels)},
    };
  for (const auto& input : inputs) {
    if (!input.span.fits) {
      return fail(QFA_INVALID_SHAPE, "the strides of %s overflow", input.name);
    }
  }
  for (const auto& target : targets) {
    if (!target.span.fits) {
      return fail(QFA_INVALID_SHAPE, "the strides of %s overflow", target.name);
    }
    for (const auto& other : targets) {
      if (&other < &target && overlap(target.span, other.span)) {
        return fail(QFA_INVALID_ARGUMENT, "%s overlaps %s; give each memory of its own",
                    target.name, other.name);
      }
    }
    for (const auto& input : inputs) {
      const bool may_overlap = &target == targets && &input == inputs && is_in_place(a);
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
