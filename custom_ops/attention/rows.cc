#include "attention/rows.h"

#include <string.h>

#include "attention/dtype.h"
#include "attention/side.h"
#include "kernels/score_zero.h"

namespace qfa {
namespace {

// Codes of one query row, padded with zeros; returns their scale.
float encode_query(const Plan& plan, const Kernels& kernels, const QueryRows& rows, int lane,
                   float* row, int8_t* codes) {
  const qfa_attention& a = plan.request;
  const char* source = query_row(plan, rows, lane);
  const float static_scale = static_scale_of(a.q_scale, a.q_scale_count, rows.head[lane]);
  memset(codes + a.qk_channels, 0, static_cast<size_t>(plan.code_stride - a.qk_channels));
  if (a.query.dtype == QFA_FLOAT32 && plan.rotation_block == 0 && a.k_channel_scale == nullptr) {
    return kernels.quantize_row(source, a.qk_channels, static_scale, codes);
  }
  load_row(kernels, a.query.dtype, source, nullptr, a.qk_channels, row);
  if (plan.rotation_block != 0) kernels.rotate_row(row, a.qk_channels, plan.rotation_block);
  if (a.k_channel_scale != nullptr) {
    // The scales of the channels of K, so that codes of K need none.
    const int64_t kv_head = rows.head[lane] / plan.sharing;
    const char* scales =
        reinterpret_cast<const char*>(a.k_channel_scale) + 4 * kv_head * a.qk_channels;
    for (int64_t c = 0; c < a.qk_channels; ++c) {
      float scale;
      memcpy(&scale, scales + 4 * c, 4);
      row[c] *= scale;
    }
  }
  return kernels.quantize_row(row, a.qk_channels, static_scale, codes);
}

// The values' scales of a head, where they are per channel.
void scale_channels(const Plan& plan, int64_t query_head, float* row) {
  const qfa_attention& a = plan.request;
  if (a.v_channel_scale == nullptr) return;
  const int64_t kv_head = query_head / plan.sharing;
  const char* scales =
      reinterpret_cast<const char*>(a.v_channel_scale) + 4 * kv_head * a.v_channels;
  for (int64_t c = 0; c < a.v_channels; ++c) {
    float scale;
    memcpy(&scale, scales + 4 * c, 4);
    row[c] *= scale;
  }
}

}  // namespace

const char* query_row(const Plan& plan, const QueryRows& rows, int lane) {
  const qfa_tensor& t = plan.request.query;
  const int64_t offset = rows.batch * t.batch_stride + rows.head[lane] * t.head_stride +
                         rows.query[lane] * t.row_stride;
  return static_cast<const char*>(t.data) + offset * element_size(t.dtype);
}

void load_row(const Kernels& kernels, qfa_dtype dtype, const void* source, const float* mean,
              int64_t count, float* row) {
  const auto load = dtype == QFA_FLOAT16    ? kernels.load_half_row
                    : dtype == QFA_BFLOAT16 ? kernels.load_bfloat_row
                                            : kernels.load_float_row;
  load(source, mean, count, row);
}

QueryRows query_rows(const Plan& plan, int64_t kv_head, int64_t query_block) {
  const qfa_attention& a = plan.request;
  const int64_t first = query_block * kLanes;
  const int64_t left = plan.rows_per_head - first;
  QueryRows rows;
  rows.count = static_cast<int>(left < kLanes ? left : kLanes);
  rows.batch = kv_head / a.kv_heads;
  if (rows.count == 0) return rows;
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
  auto* codes = plan.few ? reinterpret_cast<int8_t*>(scratch.queries) : scratch.codes;
  for (int lane = 0; lane < rows.count; ++lane, codes += plan.code_stride) {
    const float scale = encode_query(plan, kernels, rows, lane, scratch.row, codes);
    query_scale[lane] = score_scale(scale * plan.score_factor);
  }
  for (int lane = rows.count; lane < kLanes; ++lane) query_scale[lane] = 0.0f;
  if (plan.few) return;
  memset(codes, 0, static_cast<size_t>((kLanes - rows.count) * plan.code_stride));
  kernels.pack_queries(scratch.codes, plan.code_stride, scratch.queries);
}

void widen_queries(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                   const WorkerScratch& scratch) {
  const qfa_attention& a = plan.request;
  if (plan.few) {
    for (int q = 0; q < rows.count; ++q) {
      float* row = scratch.float_queries + q * a.qk_channels;
      load_row(kernels, a.query.dtype, query_row(plan, rows, q), nullptr, a.qk_channels, row);
      if (plan.rotation_block != 0) kernels.rotate_row(row, a.qk_channels, plan.rotation_block);
    }
    return;
  }
  if (rows.count < kLanes) {
    memset(scratch.float_queries, 0, static_cast<size_t>(a.qk_channels * kLanes) * sizeof(float));
  }
  for (int lane = 0; lane < rows.count; ++lane) {
    load_row(kernels, a.query.dtype, query_row(plan, rows, lane), nullptr, a.qk_channels,
             scratch.row);
    float* target = scratch.float_queries + lane;
    for (int64_t c = 0; c < a.qk_channels; ++c) target[c * kLanes] = scratch.row[c];
  }
}

void store_rows(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                const float* factor, int vectors, const float* output, float* rows_memory) {
  const qfa_attention& a = plan.request;
  if (!plan.few) kernels.finish_rows(output, plan.value_channels, factor, vectors, rows_memory);
  for (int lane = 0; lane < rows.count; ++lane) {
    float* row = rows_memory + lane * plan.value_channels;
    if (plan.few) {
      // As finish_rows: no zero is negative.
      const float* sums = output + lane * plan.output_channels();
      for (int64_t c = 0; c < a.v_channels; ++c) row[c] = sums[c] * factor[lane] + 0.0f;
    }
    scale_channels(plan, rows.head[lane], row);
    const int64_t offset = rows.batch * a.output_batch_stride +
                           rows.head[lane] * a.output_head_stride +
                           rows.query[lane] * a.output_row_stride;
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
