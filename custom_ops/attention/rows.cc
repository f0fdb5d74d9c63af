#include "attention/rows.h"

#include <string.h>

#include "attention/dtype.h"
#include "kernels/log2.h"

namespace qfa {
namespace {

// The static scale of a head, 0 for a scale per token.
float scale_of(const float* scales, int64_t count, int64_t head) {
  if (scales == nullptr) return 0.0f;
  float scale;
  const int64_t index = count == 1 ? 0 : head;
  memcpy(&scale, reinterpret_cast<const char*>(scales) + 4 * index, 4);
  return scale;
}

RowCodes encode_row(const Kernels& kernels, const qfa_tensor& tensor, const char* source,
                    const float* mean, int64_t channels, int64_t padded, int64_t rotation_block,
                    float static_scale, float* row, int8_t* codes) {
  memset(codes + channels, 0, static_cast<size_t>(padded - channels));
  const bool as_it_is = tensor.dtype == QFA_FLOAT32 && mean == nullptr && rotation_block == 0;
  if (as_it_is) return kernels.quantize_row(source, channels, static_scale, codes);
  load_row(kernels, tensor.dtype, source, mean, channels, row);
  if (rotation_block != 0) kernels.rotate_row(row, channels, rotation_block);
  return kernels.quantize_row(row, channels, static_scale, codes);
}

// A row of the joined keys or values, which is also copied to where the caller wants it.
const char* take_row(const qfa_tensor& past, int64_t past_length, const qfa_tensor& tensor,
                     const qfa_target& present, int64_t batch, int64_t head, int64_t token,
                     int64_t channels) {
  const char* source = token < past_length ? row_of(past, batch, head, token)
                                           : row_of(tensor, batch, head, token - past_length);
  if (present.data != nullptr) {
    const int64_t size = element_size(tensor.dtype);
    const int64_t offset =
        batch * present.batch_stride + head * present.head_stride + token * present.row_stride;
    memcpy(static_cast<char*>(present.data) + offset * size, source,
           static_cast<size_t>(channels * size));
  }
  return source;
}

}  // namespace

const char* row_of(const qfa_tensor& tensor, int64_t batch, int64_t head, int64_t row) {
  const int64_t offset =
      batch * tensor.batch_stride + head * tensor.head_stride + row * tensor.row_stride;
  return static_cast<const char*>(tensor.data) + offset * element_size(tensor.dtype);
}

void load_row(const Kernels& kernels, qfa_dtype dtype, const void* source, const float* mean,
              int64_t count, float* row) {
  const auto load = dtype == QFA_FLOAT16    ? kernels.load_half_row
                    : dtype == QFA_BFLOAT16 ? kernels.load_bfloat_row
                                            : kernels.load_float_row;
  load(source, mean, count, row);
}

const char* take_key(const qfa_attention& a, int64_t batch, int64_t head, int64_t token) {
  return take_row(a.past_key, a.past_length, a.key, a.present_key, batch, head, token,
                  a.qk_channels);
}

const char* take_value(const qfa_attention& a, int64_t batch, int64_t head, int64_t token) {
  return take_row(a.past_value, a.past_length, a.value, a.present_value, batch, head, token,
                  a.v_channels);
}

void encode_key_block(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t key_block,
                      const HeadCodes& codes, const WorkerScratch& scratch) {
  const qfa_attention& a = plan.request;
  const int64_t batch = kv_head / a.kv_heads, head = kv_head % a.kv_heads;
  const float key_scale = scale_of(a.k_scale, a.k_scale_count, head);
  const float value_scale = scale_of(a.v_scale, a.v_scale_count, head);
  const float* mean = nullptr;
  if (a.k_mean != nullptr) {
    const char* bytes = reinterpret_cast<const char*>(a.k_mean) + 4 * head * a.qk_channels;
    mean = reinterpret_cast<const float*>(bytes);
  }
  float value_scales[kKeyBlock];
  for (int64_t j = 0; j < kKeyBlock; ++j) {
    const int64_t token = key_block * kKeyBlock + j;
    int8_t* key_codes = codes.keys + token * plan.code_stride;
    int8_t* value_codes = scratch.codes + j * plan.value_channels;
    RowCodes key = {1.0f, 0}, value = {1.0f, 0};
    if (token < plan.keys) {
      key = encode_row(kernels, a.key, take_key(a, batch, head, token), mean, a.qk_channels,
                       plan.code_stride, plan.rotation_block, key_scale, scratch.row, key_codes);
      value = encode_row(kernels, a.value, take_value(a, batch, head, token), nullptr, a.v_channels,
                         plan.value_channels, 0, value_scale, scratch.row, value_codes);
      if (value.scale == 0.0f) value.scale = kScaleOfZeroValue;
    } else {
      memset(key_codes, 0, static_cast<size_t>(plan.code_stride));
      memset(value_codes, 0, static_cast<size_t>(plan.value_channels));
    }
    codes.correction[token] = -128 * key.sum;
    codes.key_scale[token] = key.scale;
    value_scales[j] = value.scale;
  }
  float* value_log2 = codes.value_log2 + key_block * kKeyBlock;
  float* value_inverse = codes.value_inverse + key_block * kKeyBlock;
  for (int64_t j = 0; j < kKeyBlock; ++j) {
    const float scale = value_scales[j];
    value_log2[j] = log2_of_scale(scale);
    // Finite even where the scale is NaN: those who see this key are NaN by its logarithm, and
    // those who do not multiply this by a weight of zero.
    value_inverse[j] = scale == scale ? 1.0f / scale : 1.0f;
  }
  kernels.transpose_codes(scratch.codes, plan.value_channels, plan.value_channels,
                          codes.values + key_block * kKeyBlock * plan.value_channels);
}

QueryRows query_rows(const Plan& plan, int64_t kv_head, int64_t query_block) {
  const qfa_attention& a = plan.request;
  const int64_t first = query_block * kLanes;
  const int64_t left = plan.rows_per_head - first;
  QueryRows rows;
  rows.count = static_cast<int>(left < kLanes ? left : kLanes);
  rows.batch = kv_head / a.kv_heads;
  const int64_t first_head = (kv_head % a.kv_heads) * plan.sharing;
  int64_t head = first_head + first / a.query_length, query = first % a.query_length;
  for (int lane = 0; lane < rows.count; ++lane) {
    rows.head[lane] = head;
    rows.query[lane] = query;
    if (++query == a.query_length) {
      query = 0;
      ++head;
    }
  }
  return rows;
}

void encode_queries(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                    const WorkerScratch& scratch, float* query_scale) {
  const qfa_attention& a = plan.request;
  const bool is_full = rows.count == kLanes && 4 * plan.code_groups == plan.code_stride;
  if (!is_full) {
    // 128 stands for the code 0: the packed operand is unsigned.
    memset(scratch.queries, 128, static_cast<size_t>(plan.code_stride * kLanes));
    for (int lane = rows.count; lane < kLanes; ++lane) query_scale[lane] = 0.0f;
  }
  for (int lane = 0; lane < rows.count; ++lane) {
    const int64_t head = rows.head[lane];
    const RowCodes query =
        encode_row(kernels, a.query, row_of(a.query, rows.batch, head, rows.query[lane]), nullptr,
                   a.qk_channels, plan.code_stride, plan.rotation_block,
                   scale_of(a.q_scale, a.q_scale_count, head), scratch.row, scratch.codes);
    query_scale[lane] = query.scale * plan.score_factor;
    uint8_t* target = scratch.queries + 4 * lane;
    for (int64_t group = 0; group < plan.code_groups; ++group, target += kGroupBytes) {
      uint32_t four;
      memcpy(&four, scratch.codes + 4 * group, 4);
      four ^= 0x80808080u;
      memcpy(target, &four, 4);
    }
  }
}

void store_rows(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                const float* factor, int vectors, const WorkerScratch& scratch) {
  const qfa_attention& a = plan.request;
  kernels.finish_rows(scratch.output, plan.value_channels, factor, vectors, scratch.rows);
  for (int lane = 0; lane < rows.count; ++lane) {
    const int64_t offset = rows.batch * a.output_batch_stride +
                           rows.head[lane] * a.output_head_stride +
                           rows.query[lane] * a.output_row_stride;
    const float* row = scratch.rows + lane * plan.value_channels;
    char* target = static_cast<char*>(a.output) + offset * element_size(a.query.dtype);
    switch (a.query.dtype) {
      case QFA_FLOAT16:
        kernels.store_half_row(row, a.v_channels, target);
        break;
      case QFA_BFLOAT16:
        kernels.store_bfloat_row(row, a.v_channels, target);
        break;
      case QFA_FLOAT32:
        memcpy(target, row, static_cast<size_t>(a.v_channels) * 4);
    }
  }
}

}  // namespace qfa
