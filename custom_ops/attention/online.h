// The loop of flash attention over blocks of keys, whatever the format of the two products.
#ifndef QFA_ATTENTION_ONLINE_H_
#define QFA_ATTENTION_ONLINE_H_

#include <math.h>
#include <string.h>

#include "attention/close.h"
#include "attention/masking.h"
#include "attention/plan.h"
#include "attention/rows.h"

namespace qfa {

// State of the online softmax, one entry per lane.
struct Lanes {
  alignas(64) float query_scale[kLanes];
  alignas(64) float running_max[kLanes];
  alignas(64) float running_sum[kLanes];
  alignas(64) float keep[kLanes];
  alignas(64) float gain[kLanes];
  alignas(64) int32_t limits[kLanes];
};

// One block of keys against one block of query lanes.
struct KeyBlock {
  int64_t first;          // key
  int keys;               // a multiple of 16
  int vectors;            // of lanes
  const int32_t* limits;  // null, or keys at or beyond are masked, per lane
  TileKind kind;          // kMixed: scratch.tile is added to the scores
};

// Limits of the lanes within a block, or null when every row sees all of its 64 keys.
inline const int32_t* block_limits(const Reach& reach, int64_t first, Lanes& lanes) {
  if (reach.least >= first + kKeyBlock) return nullptr;
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t left = reach.limit[lane] - first;
    lanes.limits[lane] = static_cast<int32_t>(left < 0 ? 0 : (left < kKeyBlock ? left : kKeyBlock));
  }
  return lanes.limits;
}

// Takes the lanes through all keys that they can reach. take(block, lanes) computes one block: it
// updates running_max and running_sum, and accumulates in scratch.output.
template <typename Take>
void take_keys(const Plan& plan, const Kernels& kernels, const QueryRows& rows, const Reach& reach,
               const Averaging& averaging, Lanes& lanes, const WorkerScratch& scratch,
               const Take& take) {
  for (int lane = 0; lane < kLanes; ++lane) {
    lanes.running_max[lane] = -INFINITY;
    lanes.running_sum[lane] = 0.0f;
  }
  memset(scratch.output, 0, static_cast<size_t>(plan.value_channels * kLanes) * sizeof(float));
  const int64_t start = reach.from / kKeyBlock;
  for (int64_t first = start * kKeyBlock; first < reach.most; first += kKeyBlock) {
    const int64_t left = reach.most - first;
    const int64_t count = left < kKeyBlock ? left : kKeyBlock;
    const TileKind kind = read_tile(plan, kernels, rows, reach, averaging, first, count, scratch);
    // Leaving a block out is neutral: its weights would all be zero, and it would keep everything.
    if (kind == TileKind::kHidden) continue;
    const int keys = static_cast<int>((count + 15) / 16 * 16);
    const int vectors = rows.count > kVectorLanes ? 2 : 1;
    take(KeyBlock{first, keys, vectors, block_limits(reach, first, lanes), kind}, lanes);
  }
}

// Attention of `rows`, whose scales are in `lanes`. A weight of 1 counts `step` in scratch.output.
template <typename Take>
void attend_rows(const Plan& plan, const Kernels& kernels, const QueryRows& rows, Lanes& lanes,
                 float step, const WorkerScratch& scratch, const Take& take) {
  const Reach reach = reach_of(plan, rows);
  Averaging averaging = {};
  take_keys(plan, kernels, rows, reach, averaging, lanes, scratch, take);
  // Averaging rows are rare, and known for certain only when no key has reached them: then all
  // lanes start again, the others to the same result.
  if (find_averaging(plan, kernels, rows, reach, lanes.running_sum, scratch, &averaging)) {
    for (int lane = 0; lane < rows.count; ++lane) {
      // A query that is not a number stays so.
      const bool is_number = !isnan(lanes.query_scale[lane]);
      if (averaging.lane[lane] && is_number) lanes.query_scale[lane] = 0.0f;
    }
    take_keys(plan, kernels, rows, reach, averaging, lanes, scratch, take);
  }
  alignas(64) float factor[kLanes];
  close_rows(plan, rows, lanes.running_max, lanes.running_sum, step, factor);
  store_rows(plan, kernels, rows, factor, rows.count > kVectorLanes ? 2 : 1, scratch);
}

}  // namespace qfa

#endif  // QFA_ATTENTION_ONLINE_H_
