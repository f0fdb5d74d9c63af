#include "attention/attend.h"

#include <math.h>
#include <string.h>

#include "attention/close.h"
#include "attention/masking.h"
#include "attention/rows.h"

namespace qfa {
namespace {

// State of the online softmax, one entry per lane.
struct Lanes {
  alignas(64) float query_scale[kLanes];
  alignas(64) float zeros[kLanes];
  alignas(64) float running_max[kLanes];
  alignas(64) float running_sum[kLanes];
  alignas(64) float keep[kLanes];
  alignas(64) float gain[kLanes];
  alignas(64) int32_t limits[kLanes];
};

void start(Lanes& lanes, float* output, int64_t channels) {
  for (int lane = 0; lane < kLanes; ++lane) {
    lanes.running_max[lane] = -INFINITY;
    lanes.running_sum[lane] = 0.0f;
    lanes.zeros[lane] = 0.0f;
  }
  memset(output, 0, static_cast<size_t>(channels * kLanes) * sizeof(float));
}

// Limits of the lanes within a block, or null when every row sees all of its 64 keys.
const int32_t* block_limits(const Reach& reach, int64_t first, Lanes& lanes) {
  if (reach.least >= first + kKeyBlock) return nullptr;
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t left = reach.limit[lane] - first;
    lanes.limits[lane] = static_cast<int32_t>(left < 0 ? 0 : (left < kKeyBlock ? left : kKeyBlock));
  }
  return lanes.limits;
}

// Moves the scores of a block, capped, into what softmax adds to the scores, and takes them from
// there by scales of zero. What is not a number stays so in the tile.
void cap(const Plan& plan, const Kernels& kernels, TileKind kind, SoftmaxBlock& block,
         const Lanes& lanes, const WorkerScratch& scratch) {
  if (kind == TileKind::kPlain) {
    memset(scratch.tile, 0, static_cast<size_t>(block.keys * kLanes) * sizeof(float));
  }
  kernels.cap_scores({block.keys, block.vectors, block.scores, block.correction, block.query_scale,
                      block.key_scale, plan.request.softcap, plan.cap_inverse, scratch.tile});
  block.bias = scratch.tile;
  block.query_scale = lanes.zeros;
}

// Takes the lanes through all keys that they can reach.
void take_keys(const Plan& plan, const Kernels& kernels, const HeadCodes& codes,
               const QueryRows& rows, const Reach& reach, const Averaging& averaging, int vectors,
               Lanes& lanes, const WorkerScratch& scratch) {
  start(lanes, scratch.output, plan.value_channels);
  const int64_t start_block = reach.from / kKeyBlock;
  for (int64_t first = start_block * kKeyBlock; first < reach.most; first += kKeyBlock) {
    const int64_t left = reach.most - first;
    const int64_t count = left < kKeyBlock ? left : kKeyBlock;
    const TileKind kind = read_tile(plan, kernels, rows, reach, averaging, first, count, scratch);
    // Leaving a block out is neutral: its weights would all be zero, and it would keep everything.
    if (kind == TileKind::kHidden) continue;

    SoftmaxBlock block;
    block.keys = static_cast<int>((count + 15) / 16 * 16);
    block.vectors = vectors;
    block.scores = scratch.scores;
    block.correction = codes.correction + first;
    block.query_scale = lanes.query_scale;
    block.key_scale = codes.key_scale + first;
    block.value_log2 = codes.value_log2 + first;
    block.value_inverse = codes.value_inverse + first;
    block.limits = block_limits(reach, first, lanes);
    block.bias = kind == TileKind::kMixed ? scratch.tile : nullptr;
    block.weights = scratch.weights;
    block.running_max = lanes.running_max;
    block.running_sum = lanes.running_sum;
    block.keep = lanes.keep;
    block.gain = lanes.gain;

    kernels.scores(codes.keys + first * plan.code_stride, plan.code_stride, plan.code_groups,
                   scratch.queries, block.keys, vectors, scratch.scores);
    if (plan.request.softcap > 0.0f) cap(plan, kernels, kind, block, lanes, scratch);
    kernels.softmax(block);
    kernels.accumulate(codes.values + first * plan.value_channels, plan.value_channels,
                       scratch.weights, block.keys, lanes.keep, lanes.gain, vectors,
                       scratch.output);
  }
}

}  // namespace

void attend(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t query_block,
            const HeadCodes& codes, const WorkerScratch& scratch) {
  const QueryRows rows = query_rows(plan, kv_head, query_block);
  const int vectors = rows.count > kVectorLanes ? 2 : 1;
  const Reach reach = reach_of(plan, rows);
  Lanes lanes;
  encode_queries(plan, kernels, rows, scratch, lanes.query_scale);
  Averaging averaging = {};
  take_keys(plan, kernels, codes, rows, reach, averaging, vectors, lanes, scratch);
  // Averaging rows are rare, and known for certain only when no key has reached them: then all
  // lanes start again, the others to the same result.
  if (find_averaging(plan, kernels, rows, reach, lanes.running_sum, scratch, &averaging)) {
    for (int lane = 0; lane < rows.count; ++lane) {
      // A query that is not a number stays so.
      const bool is_number = !isnan(lanes.query_scale[lane]);
      if (averaging.lane[lane] && is_number) lanes.query_scale[lane] = 0.0f;
    }
    take_keys(plan, kernels, codes, rows, reach, averaging, vectors, lanes, scratch);
  }

  alignas(64) float factor[kLanes];
  constexpr float kWeightCodes = 255.0f;
  close_rows(plan, rows, lanes.running_max, lanes.running_sum, kWeightCodes, factor);
  store_rows(plan, kernels, rows, factor, vectors, scratch);
}

}  // namespace qfa
