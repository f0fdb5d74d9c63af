#include "attention/attend.h"

#include <string.h>

#include "attention/online.h"
#include "attention/rows.h"

namespace qfa {
namespace {

constexpr float kWeightCodes = 255.0f;  // the code of a weight of 1
alignas(64) constexpr float kZeros[kLanes] = {};

// Moves the scores of a block, capped, into what softmax adds to the scores, and takes them from
// there by scales of zero. What is not a number stays so in the tile.
void cap_scores(const Plan& plan, const Kernels& kernels, TileKind kind, SoftmaxBlock& block,
                float* tile) {
  if (kind == TileKind::kPlain) {
    memset(tile, 0, static_cast<size_t>(block.keys * kLanes) * sizeof(float));
  }
  kernels.cap_scores({block.keys, block.vectors, block.scores, block.correction, block.query_scale,
                      block.key_scale, plan.request.softcap, plan.cap_inverse, tile});
  block.bias = tile;
  block.query_scale = kZeros;
}

}  // namespace

void attend(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t query_block,
            const HeadCodes& codes, const WorkerScratch& scratch) {
  const QueryRows rows = query_rows(plan, kv_head, query_block);
  Lanes lanes;
  encode_queries(plan, kernels, rows, scratch, lanes.query_scale);
  attend_rows(plan, kernels, rows, lanes, kWeightCodes, scratch, [&](const KeyBlock& b, Lanes& l) {
    SoftmaxBlock block;
    block.keys = b.keys;
    block.vectors = b.vectors;
    block.scores = scratch.scores;
    block.correction = codes.correction + b.first;
    block.query_scale = l.query_scale;
    block.key_scale = codes.key_scale + b.first;
    block.value_log2 = codes.value_log2 + b.first;
    block.value_inverse = codes.value_inverse + b.first;
    block.limits = b.limits;
    block.bias = b.kind == TileKind::kMixed ? scratch.tile : nullptr;
    block.weights = scratch.weights;
    block.running_max = l.running_max;
    block.running_sum = l.running_sum;
    block.keep = l.keep;
    block.gain = l.gain;

    kernels.scores(codes.keys + b.first * plan.code_stride, plan.code_stride, plan.code_groups,
                   scratch.queries, b.keys, b.vectors, scratch.scores);
    if (plan.request.softcap > 0.0f) cap_scores(plan, kernels, b.kind, block, scratch.tile);
    kernels.softmax(block);
    kernels.accumulate(codes.values + b.first * plan.value_channels, plan.value_channels,
                       scratch.weights, b.keys, l.keep, l.gain, b.vectors, scratch.output);
  });
}

}  // namespace qfa
