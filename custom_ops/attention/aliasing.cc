#include "attention/aliasing.h"

#include <stdint.h>

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

int64_t element_bytes(qfa_dtype dtype) { return dtype == QFA_FLOAT16 ? 2 : 4; }

Span span_of(const qfa_attention& a, const qfa_tensor& t, int64_t heads, int64_t rows,
             int64_t channels) {
  return span_of(
      t.data, element_bytes(t.dtype),
      {{a.batch, t.batch_stride}, {heads, t.head_stride}, {rows, t.row_stride}, {channels, 1}});
}

Span span_of(const qfa_attention& a, const qfa_mask& m, int64_t bytes) {
  if (m.data == nullptr) return {0, 0, true};
  return span_of(m.data, bytes,
                 {{a.batch, m.strides[0]},
                  {a.heads, m.strides[1]},
                  {a.query_length, m.strides[2]},
                  {a.key_length, m.strides[3]}});
}

// Floats that lie side by side, such as scales.
Span span_of(const float* data, int64_t rows, int64_t columns) {
  if (data == nullptr) return {0, 0, true};
  return span_of(data, 4, {{1, 0}, {1, 0}, {rows, columns}, {columns, 1}});
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
  const qfa_tensor target = {a.output, a.query.dtype, a.output_batch_stride, a.output_head_stride,
                             a.output_row_stride};
  const Span output = span_of(a, target, a.heads, a.query_length, a.v_channels);
  const struct {
    const char* name;
    Span span;
    bool may_overlap;
  } inputs[] = {
      {"query", span_of(a, a.query, a.heads, a.query_length, a.qk_channels), is_in_place(a)},
      {"key", span_of(a, a.key, a.kv_heads, a.key_length, a.qk_channels), false},
      {"value", span_of(a, a.value, a.kv_heads, a.key_length, a.v_channels), false},
      {"mask", span_of(a, a.mask, 1), false},
      {"bias", span_of(a, a.bias, element_bytes(a.bias_dtype)), false},
      {"q_scale", span_of(a.q_scale, 1, a.q_scale_count), false},
      {"k_scale", span_of(a.k_scale, 1, a.k_scale_count), false},
      {"v_scale", span_of(a.v_scale, 1, a.v_scale_count), false},
      {"k_mean", span_of(a.k_mean, a.kv_heads, a.qk_channels), false},
  };
  if (!output.fits) return fail(QFA_INVALID_SHAPE, "the strides of output overflow");
  for (const auto& input : inputs) {
    if (!input.span.fits) {
      return fail(QFA_INVALID_SHAPE, "the strides of %s overflow", input.name);
    }
    if (!input.may_overlap && overlap(output, input.span)) {
      return fail(QFA_INVALID_ARGUMENT,
                  "output overlaps %s, which is still read while output is written; give output "
                  "memory of its own",
                  input.name);
    }
  }
  return QFA_OK;
}

}  // namespace qfa
