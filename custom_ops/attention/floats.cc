#include "attention/floats.h"

#include <math.h>
#include <string.h>

#include <bit>

#include "attention/online.h"
#include "attention/rows.h"

namespace qfa {
namespace {

bool all_finite(const float* row, int64_t count) {
  constexpr uint32_t kInfinity = 0x7f800000u;
  uint32_t greatest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(row[i]) & 0x7fffffffu;
    greatest = magnitude > greatest ? magnitude : greatest;
  }
  return greatest < kInfinity;
}

// Lanes without a row hold zeros.
void pack_queries(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                  const WorkerScratch& scratch) {
  const qfa_attention& a = plan.request;
  if (rows.count < kLanes) {
    memset(scratch.float_queries, 0, static_cast<size_t>(a.qk_channels * kLanes) * sizeof(float));
  }
  for (int lane = 0; lane < rows.count; ++lane) {
    const char* source = row_of(a.query, rows.batch, rows.head[lane], rows.query[lane]);
    load_row(kernels, a.query.dtype, source, nullptr, a.qk_channels, scratch.row);
    float* target = scratch.float_queries + lane;
    for (int64_t c = 0; c < a.qk_channels; ++c) target[c * kLanes] = scratch.row[c];
  }
}

}  // namespace

void widen_key_block(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t key_block,
                     const HeadFloats& floats) {
  const qfa_attention& a = plan.request;
  const int64_t batch = kv_head / a.kv_heads, head = kv_head % a.kv_heads;
  for (int64_t token = key_block * kKeyBlock; token < (key_block + 1) * kKeyBlock; ++token) {
    float* key = floats.keys + token * a.qk_channels;
    float* value = floats.values + token * plan.value_channels;
    floats.spoil[token] = 0.0f;
    memset(value, 0, static_cast<size_t>(plan.value_channels) * sizeof(float));
    if (token >= plan.keys) {
      memset(key, 0, static_cast<size_t>(a.qk_channels) * sizeof(float));
      continue;
    }
    load_row(kernels, a.key.dtype, take_key(a, batch, head, token), nullptr, a.qk_channels, key);
    load_row(kernels, a.value.dtype, take_value(a, batch, head, token), nullptr, a.v_channels,
             value);
    if (all_finite(value, a.v_channels)) continue;
    // A weight of zero would not hide it: the row is emptied, and spoils those that see its key.
    memset(value, 0, static_cast<size_t>(plan.value_channels) * sizeof(float));
    floats.spoil[token] = NAN;
  }
}

void attend_floats(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t query_block,
                   const HeadFloats& floats, const WorkerScratch& scratch) {
  const qfa_attention& a = plan.request;
  const QueryRows rows = query_rows(plan, kv_head, query_block);
  Lanes lanes;
  for (float& scale : lanes.query_scale) scale = plan.score_factor;
  pack_queries(plan, kernels, rows, scratch);
  attend_rows(plan, kernels, rows, lanes, 1.0f, scratch, [&](const KeyBlock& b, Lanes& l) {
    FloatBlock block;
    block.keys = b.keys;
    block.vectors = b.vectors;
    block.scores = scratch.float_scores;
    block.query_scale = l.query_scale;
    block.spoil = floats.spoil + b.first;
    block.cap = plan.cap_base2;
    block.inverse = plan.cap_inverse;
    block.limits = b.limits;
    block.bias = b.kind == TileKind::kMixed ? scratch.tile : nullptr;
    block.running_max = l.running_max;
    block.running_sum = l.running_sum;
    block.keep = l.keep;

    kernels.float_scores(floats.keys + b.first * a.qk_channels, a.qk_channels,
                         scratch.float_queries, b.keys, b.vectors, scratch.float_scores);
    kernels.float_softmax(block);
    kernels.float_accumulate(floats.values + b.first * plan.value_channels, plan.value_channels,
                             scratch.float_scores, b.keys, l.keep, b.vectors, scratch.output);
  });
}

}  // namespace qfa
