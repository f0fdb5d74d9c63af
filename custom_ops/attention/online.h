// The loop of flash attention over blocks of keys, whatever the format of the two products.
#ifndef QFA_ATTENTION_ONLINE_H_
#define QFA_ATTENTION_ONLINE_H_

#include <math.h>
#include <string.h>

#include <utility>

#include "attention/close.h"
#include "attention/masking.h"
#include "attention/plan.h"
#include "attention/rows.h"

namespace qfa {

// Queries of a block on their way through the keys. Arrays have one entry per lane, or per query
// where queries are few.
struct Lanes {
  alignas(64) float query_scale[kLanes];
  alignas(64) float keep[kLanes];
  alignas(64) float gain[kLanes];
  alignas(64) int32_t limits[kLanes];
  ChunkState chunk;  // of the chunk at hand
  ChunkState total;  // of those before it
  bool has_total;    // there were some
};

// One block of keys against one block of queries.
struct KeyBlock {
  int64_t first;          // key
  int keys;               // a multiple of 16
  int vectors;            // of lanes
  const int32_t* limits;  // null, or keys at or beyond are masked, per lane
  TileKind kind;          // kMixed: scratch.tile is added to the scores
};

// What the loop needs besides its lanes.
struct Attending {
  const Plan& plan;
  const Kernels& kernels;
  const QueryRows& rows;
  const Reach& reach;
  const Averaging& averaging;
  const WorkerScratch& scratch;

  int vectors() const { return rows.count > kVectorLanes ? 2 : 1; }
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

// Takes the lanes through the keys of one chunk. take(block, lanes) computes one block: it updates
// lanes.chunk. skip(first) is called for the blocks that no lane sees.
template <typename Take, typename Skip>
void take_chunk(const Attending& by, int64_t chunk, Lanes& lanes, const Take& take,
                const Skip& skip) {
  for (int lane = 0; lane < kLanes; ++lane) {
    lanes.chunk.max[lane] = -INFINITY;
    lanes.chunk.sum[lane] = 0.0f;
  }
  memset(lanes.chunk.output, 0, static_cast<size_t>(by.plan.output_count()) * sizeof(float));
  const Reach& reach = by.reach;
  const int64_t start = chunk * QFA_KEY_CHUNK;
  for (int64_t first = start; first < start + QFA_KEY_CHUNK && first < by.plan.keys;
       first += kKeyBlock) {
    if (first + kKeyBlock <= reach.from || first >= reach.most) {
      skip(first);
      continue;
    }
    const int64_t left = reach.most - first;
    const int64_t count = left < kKeyBlock ? left : kKeyBlock;
    const TileKind kind =
        read_tile(by.plan, by.kernels, by.rows, reach, by.averaging, first, count, by.scratch);
    // Leaving a block out is neutral: its weights would all be zero, and it would keep everything.
    if (kind == TileKind::kHidden) {
      skip(first);
      continue;
    }
    const int keys = static_cast<int>((count + 15) / 16 * 16);
    take(KeyBlock{first, keys, by.vectors(), block_limits(reach, first, lanes), kind}, lanes);
  }
}

// Adds a chunk to those before it.
inline void join_chunk(const Attending& by, const ChunkState& chunk, Lanes& lanes) {
  by.kernels.join_states({by.vectors(), chunk.max, chunk.sum, lanes.total.max, lanes.total.sum,
                          lanes.keep, lanes.gain});
  if (by.plan.few) {
    by.kernels.join_rows(chunk.output, by.plan.output_channels(), by.rows.count, lanes.keep,
                         lanes.gain, lanes.total.output);
  } else {
    by.kernels.join_lanes(chunk.output, by.plan.output_channels(), lanes.keep, lanes.gain,
                          by.vectors(), lanes.total.output);
  }
}

// Nothing has been seen yet.
inline void start_lanes(const WorkerScratch& scratch, Lanes& lanes) {
  lanes.chunk = scratch.chunk;
  lanes.total = scratch.total;
  lanes.has_total = false;
}

// Adds the chunk at hand to those before it; the first is taken over as it is, to the same bits.
inline void end_chunk(const Attending& by, Lanes& lanes) {
  if (lanes.has_total) {
    join_chunk(by, lanes.chunk, lanes);
  } else {
    std::swap(lanes.chunk, lanes.total);
    lanes.has_total = true;
  }
}

// Takes the lanes through all keys that they can reach.
template <typename Take, typename Skip>
void take_keys(const Attending& by, int64_t first_chunk, int64_t end_chunk_index, Lanes& lanes,
               const Take& take, const Skip& skip) {
  start_lanes(by.scratch, lanes);
  for (int64_t chunk = first_chunk; chunk < end_chunk_index; ++chunk) {
    take_chunk(by, chunk, lanes, take, skip);
    end_chunk(by, lanes);
  }
}

// Where no chunk was taken at all.
inline void ensure_total(const Attending& by, Lanes& lanes) {
  if (lanes.has_total) return;
  for (int lane = 0; lane < kLanes; ++lane) {
    lanes.total.max[lane] = -INFINITY;
    lanes.total.sum[lane] = 0.0f;
  }
  memset(lanes.total.output, 0, static_cast<size_t>(by.plan.output_count()) * sizeof(float));
}

// The rows' output, from the state of all keys. again(averaging) takes the lanes through all keys
// once more.
template <typename Again>
void finish_queries(const Attending& by, Lanes& lanes, const Again& again) {
  ensure_total(by, lanes);
  Averaging averaging = {};
  // Averaging rows are rare, and known for certain only when no key has reached them: then all
  // lanes start again, the others to the same result.
  if (find_averaging(by.plan, by.kernels, by.rows, by.reach, lanes.total.sum, by.scratch,
                     &averaging)) {
    for (int lane = 0; lane < by.rows.count; ++lane) {
      // A query that is not a number stays so.
      const bool is_number = !isnan(lanes.query_scale[lane]);
      if (averaging.lane[lane] && is_number) lanes.query_scale[lane] = 0.0f;
    }
    again(Attending{by.plan, by.kernels, by.rows, by.reach, averaging, by.scratch});
    ensure_total(by, lanes);
  }
  alignas(64) float factor[kLanes];
  close_rows(by.plan, by.rows, lanes.total.max, lanes.total.sum, by.plan.weight_of_one(), factor);
  store_rows(by.plan, by.kernels, by.rows, factor, by.vectors(), lanes.total.output,
             by.scratch.rows);
}

// Answers one block of queries of a key/value head whose keys are held. prepare(rows, lanes) brings
// the queries and their scales into the worker's scratch; attend(by, block, lanes) takes the lanes
// through one block.
template <typename Prepare, typename Attend>
void answer(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t query_block,
            const WorkerScratch& scratch, const Prepare& prepare, const Attend& attend) {
  const QueryRows rows = query_rows(plan, kv_head, query_block);
  const Reach reach = reach_of(plan, rows);
  Lanes lanes;
  prepare(rows, lanes);
  const auto take_all = [&](const Attending& by) {
    const auto take = [&](const KeyBlock& b, Lanes& l) { attend(by, b, l); };
    take_keys(by, reach.first_chunk(), reach.end_chunk(), lanes, take, [](int64_t) {});
  };
  const Averaging none = {};
  const Attending by = {plan, kernels, rows, reach, none, scratch};
  take_all(by);
  finish_queries(by, lanes, take_all);
}

}  // namespace qfa

#endif  // QFA_ATTENTION_ONLINE_H_
