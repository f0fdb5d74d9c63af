#include "attention/side.h"

#include <string.h>

#include "attention/dtype.h"

namespace qfa {
namespace {

bool same_strides(const int64_t (&a)[3], const int64_t (&b)[3]) {
  return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

int64_t offset_of(const int64_t (&strides)[3], int64_t batch, int64_t head, int64_t row) {
  return batch * strides[0] + head * strides[1] + row * strides[2];
}

// Floats that may be unaligned, from element `index` on.
const float* floats_at(const float* base, int64_t index) {
  if (base == nullptr) return nullptr;
  return reinterpret_cast<const float*>(reinterpret_cast<const char*>(base) + 4 * index);
}

const char* tensor_row(const qfa_tensor& t, int64_t batch, int64_t head, int64_t row) {
  const int64_t offset = batch * t.batch_stride + head * t.head_stride + row * t.row_stride;
  return static_cast<const char*>(t.data) + offset * element_size(t.dtype);
}

}  // namespace

bool Side::is_in_place() const {
  if (request->kv_format != QFA_KV_FLOAT) {
    return present_codes->codes == past_codes->codes &&
           same_strides(present_codes->codes_strides, past_codes->codes_strides);
  }
  return present->data == past->data && present->batch_stride == past->batch_stride &&
         present->head_stride == past->head_stride && present->row_stride == past->row_stride;
}

const char* Side::fresh_row(int64_t row) const { return tensor_row(*fresh, batch, head, row); }

const char* Side::past_row(int64_t row) const { return tensor_row(*past, batch, head, row); }

char* Side::present_row(int64_t row) const {
  const int64_t offset =
      batch * present->batch_stride + head * present->head_stride + row * present->row_stride;
  return static_cast<char*>(present->data) + offset * element_size(fresh->dtype);
}

uint8_t* Side::codes_row(const qfa_codes& codes, int64_t row) const {
  return static_cast<uint8_t*>(codes.codes) + offset_of(codes.codes_strides, batch, head, row);
}

char* Side::scale_row(const qfa_codes& codes, int64_t row, int64_t size) const {
  return static_cast<char*>(codes.scale) + size * offset_of(codes.scale_strides, batch, head, row);
}

void Side::put_numbers(int64_t token, const char* source) const {
  memcpy(present_row(token), source, static_cast<size_t>(channels * element_size(fresh->dtype)));
}

void Side::put_codes(int64_t token, const void* codes, float scale) const {
  memcpy(codes_row(*present_codes, token), codes, static_cast<size_t>(channels));
  if (channel_scale == nullptr) memcpy(scale_row(*present_codes, token, 4), &scale, 4);
}

float Side::scale_of_old(int64_t token) const {
  float scale = 1.0f;
  if (channel_scale == nullptr) memcpy(&scale, scale_row(*past_codes, token, 4), 4);
  return scale;
}

void Side::copy_old(int64_t token) const {
  if (request->kv_format == QFA_KV_FLOAT) {
    put_numbers(token, past_row(token));
  } else {
    put_codes(token, codes_row(*past_codes, token), scale_of_old(token));
  }
}

int8_t* Side::zero_point_row(const qfa_codes& codes, int64_t row) const {
  return static_cast<int8_t*>(codes.zero_point) + offset_of(codes.scale_strides, batch, head, row);
}

const char* Side::past_open_row(int64_t row) const {
  return static_cast<const char*>(past_codes->open) +
         element_size(fresh->dtype) * offset_of(past_codes->open_strides, batch, head, row);
}

const char* Side::open_row(int64_t row) const {
  if (kept_open == nullptr) return past_open_row(row);
  return kept_open + element_size(fresh->dtype) * channels * row;
}

char* Side::present_open_row(int64_t row) const {
  return static_cast<char*>(present_codes->open) +
         element_size(fresh->dtype) * offset_of(present_codes->open_strides, batch, head, row);
}

float static_scale_of(const float* scales, int64_t count, int64_t head) {
  if (scales == nullptr) return 0.0f;
  // Not by way of a pointer to floats: the compiler would take it to be aligned.
  float scale;
  memcpy(&scale, reinterpret_cast<const char*>(scales) + 4 * (count == 1 ? 0 : head), 4);
  return scale;
}

Side key_side(const Plan& plan, int64_t kv_head) {
  const qfa_attention& a = plan.request;
  const int64_t head = kv_head % a.kv_heads;
  return {&a,
          kv_head / a.kv_heads,
          head,
          a.qk_channels,
          &a.key,
          &a.past_key,
          &a.present_key,
          &a.past_keys,
          &a.present_keys,
          floats_at(a.k_mean, head * a.qk_channels),
          plan.rotation_block,
          static_scale_of(a.k_scale, a.k_scale_count, head),
          floats_at(a.k_channel_scale, head * a.qk_channels),
          plan.kept_open == nullptr ? nullptr : plan.kept_open_row(kv_head, 0)};
}

Side value_side(const Plan& plan, int64_t kv_head) {
  const qfa_attention& a = plan.request;
  const int64_t head = kv_head % a.kv_heads;
  return {&a,
          kv_head / a.kv_heads,
          head,
          a.v_channels,
          &a.value,
          &a.past_value,
          &a.present_value,
          &a.past_values,
          &a.present_values,
          nullptr,
          0,
          static_scale_of(a.v_scale, a.v_scale_count, head),
          floats_at(a.v_channel_scale, head * a.v_channels),
          nullptr};
}

}  // namespace qfa
