#include "attention/attend.h"

#include <string.h>

#include "attention/int4.h"
#include "attention/rows.h"
#include "kernels/score_zero.h"

namespace qfa {
namespace {

alignas(64) constexpr float kZeros[kLanes] = {};

// Moves the scores of a block, capped, into what softmax adds to the scores, and takes them from
// there by scales of zero. What is not a number stays so in the tile.
void cap_scores(const Plan& plan, const Kernels& kernels, TileKind kind, SoftmaxBlock& block,
                float* tile) {
  if (kind == TileKind::kPlain) {
    memset(tile, 0, static_cast<size_t>(block.keys * kLanes) * sizeof(float));
  }
  kernels.cap_scores({block.keys, block.vectors, block.scores, block.score_zero, block.query_scale,
                      block.key_scale, plan.request.softcap, plan.cap_inverse, tile});
  block.bias = tile;
  block.query_scale = kZeros;
}

}  // namespace

CodeRows take_keys_as_codes(const Plan& plan, const Kernels& kernels, const Side& side,
                            int64_t key_block, bool may_borrow, bool writes,
                            const WorkerScratch& scratch, int8_t* tile, float* scale) {
  if (plan.has_int4()) {
    return take_int4_as_codes(plan, kernels, side, true, key_block, writes, plan.code_stride,
                              scratch, tile, scale);
  }
  return take_codes(plan, kernels, side, key_block, may_borrow, writes, plan.code_stride,
                    scratch.row, tile, scale);
}

CodeRows take_values_as_codes(const Plan& plan, const Kernels& kernels, const Side& side,
                              int64_t key_block, bool writes, int64_t padded,
                              const WorkerScratch& scratch) {
  if (plan.has_int4()) {
    return take_int4_as_codes(plan, kernels, side, false, key_block, writes, padded, scratch,
                              scratch.codes, scratch.value_scale);
  }
  return take_codes(plan, kernels, side, key_block, true, writes, padded, scratch.row,
                    scratch.codes, scratch.value_scale);
}

void attend_codes(const Attending& by, const LaneCodes& codes, const KeyBlock& b, Lanes& lanes) {
  const Plan& plan = by.plan;
  const Kernels& kernels = by.kernels;
  const WorkerScratch& scratch = by.scratch;
  SoftmaxBlock block;
  block.keys = b.keys;
  block.vectors = b.vectors;
  block.scores = scratch.scores;
  block.score_zero = score_zero(plan.code_groups);
  block.query_scale = lanes.query_scale;
  block.key_scale = codes.key_scale;
  block.value_log2 = codes.value_log2;
  block.value_inverse = codes.value_inverse;
  block.limits = b.limits;
  block.bias = b.kind == TileKind::kMixed ? scratch.tile : nullptr;
  block.weights = scratch.weights;
  block.running_max = lanes.chunk.max;
  block.running_sum = lanes.chunk.sum;
  block.keep = lanes.keep;
  block.gain = lanes.gain;

  kernels.scores(codes.keys, codes.key_stride, plan.code_groups, scratch.queries, codes.score_start,
                 b.keys, b.vectors, scratch.scores);
  if (plan.request.softcap > 0.0f) cap_scores(plan, kernels, b.kind, block, scratch.tile);
  kernels.softmax(block);
  kernels.accumulate(codes.columns, plan.value_channels, scratch.weights, b.keys, lanes.keep,
                     lanes.gain, b.vectors, lanes.chunk.output);
}

void encode_key_block(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t key_block,
                      const HeadCodes& codes, const WorkerScratch& scratch) {
  const int64_t first = key_block * kKeyBlock;
  const CodeRows keys =
      take_keys_as_codes(plan, kernels, key_side(plan, kv_head), key_block, false, true, scratch,
                         codes.keys + first * plan.code_stride, codes.key_scale + first);
  const CodeRows values = take_values_as_codes(plan, kernels, value_side(plan, kv_head), key_block,
                                               true, plan.value_channels, scratch);
  start_scores(plan, kernels, keys, codes.score_start + first);
  kernels.value_scales(values.scale, kKeyBlock, codes.value_log2 + first,
                       codes.value_inverse + first);
  kernels.transpose_codes(values.codes, values.stride, plan.value_channels,
                          codes.values + first * plan.value_channels);
}

void attend(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t query_block,
            const HeadCodes& codes, const WorkerScratch& scratch) {
  answer(
      plan, kernels, kv_head, query_block, scratch,
      [&](const QueryRows& rows, Lanes& lanes) {
        encode_queries(plan, kernels, rows, scratch, lanes.query_scale);
      },
      [&](const Attending& by, const KeyBlock& b, Lanes& lanes) {
        attend_codes(
            by,
            {codes.keys + b.first * plan.code_stride, plan.code_stride,
             codes.values + b.first * plan.value_channels, codes.score_start + b.first,
             codes.key_scale + b.first, codes.value_log2 + b.first, codes.value_inverse + b.first},
            b, lanes);
      });
}

}  // namespace qfa
