#include "attention/stream.h"

#include "attention/attend.h"
#include "attention/bfloats.h"
#include "attention/floats.h"
#include "attention/int4.h"
#include "attention/online.h"
#include "attention/rows.h"
#include "attention/side.h"
#include "attention/tokens.h"

namespace qfa {
namespace {

// One key/value head on its way through its keys.
class Stream {
 public:
  Stream(const Plan& plan, const Kernels& kernels, int64_t kv_head, const WorkerScratch& scratch)
      : plan_(plan),
        kernels_(kernels),
        kv_head_(kv_head),
        scratch_(scratch),
        keys_(key_side(plan, kv_head)),
        values_(value_side(plan, kv_head)),
        rows_(query_rows(plan, kv_head, 0)),
        reach_(reach_of(plan, rows_)),
        by_{plan, kernels, rows_, reach_, none_, scratch} {
    if (plan.computes_fp8()) {
      pack_bfloat_queries(plan, kernels, rows_, scratch, lanes_.query_scale);
    } else if (plan.computes_float() || plan.few_int4()) {
      for (float& scale : lanes_.query_scale) scale = plan.score_factor;
      widen_queries(plan, kernels, rows_, scratch);
    } else {
      encode_queries(plan, kernels, rows_, scratch, lanes_.query_scale);
    }
    start_lanes(scratch, lanes_);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void take_all() { take_range(by_, true); }

  // Into `result`.
  void take_one(int64_t chunk, const ChunkState& result) {
    lanes_.chunk = result;
    take_chunk(
        by_, chunk, lanes_, [&](const KeyBlock& b, Lanes&) { take(by_, b, true); },
        [&](int64_t first) { pass(first); });
  }

  void join(const ChunkState& chunk) {
    lanes_.chunk = chunk;
    if (!lanes_.has_total) {
      lanes_.total = chunk;
      lanes_.has_total = true;
    } else {
      join_chunk(by_, chunk, lanes_);
    }
  }

  void finish() {
    if (rows_.count == 0) return;
    // The present cache is written by then.
    finish_queries(by_, lanes_, [&](const Attending& by) { take_range(by, false); });
  }

 private:
  void take_range(const Attending& by, bool writes) {
    // What must be written may lie where no query reaches.
    const bool visits_all = writes && (keys_.is_wanted() || values_.is_wanted());
    const int64_t first = visits_all ? 0 : reach_.first_chunk();
    const int64_t end = visits_all ? plan_.key_chunks : reach_.end_chunk();
    const auto take_block = [&](const KeyBlock& b, Lanes&) { take(by, b, writes); };
    const auto pass_block = [&](int64_t key) {
      if (writes) pass(key);
    };
    take_keys(by, first, end, lanes_, take_block, pass_block);
  }

  // A block that no query sees: it may have to be written.
  void pass(int64_t first) {
    const int64_t block = first / kKeyBlock;
    const bool is_wanted = keys_.is_wanted() || values_.is_wanted();
    if (plan_.computes_fp8()) {
      if (is_wanted) take_bfloats(block, true);
      return;
    }
    if (plan_.computes_float()) {
      if (is_wanted) widen(block, true);
      return;
    }
    if (plan_.few_int4()) {
      Int4Keys groups[kGroupsOfBlock];
      if (keys_.is_wanted()) take_int4_keys(plan_, kernels_, keys_, block, true, scratch_, groups);
      if (values_.is_wanted()) take_int4_values(plan_, kernels_, values_, block, true, scratch_);
      return;
    }
    if (keys_.is_wanted()) take_keys_of(block, true);
    if (values_.is_wanted()) take_values_of(block, true);
  }

  const BfloatBlock& take_bfloats(int64_t block, bool writes) {
    take_bfloat_block(plan_, kernels_, kv_head_, block, writes, scratch_, scratch_.bfloats);
    return scratch_.bfloats;
  }

  FloatTile widen(int64_t block, bool writes) {
    const FloatTile tile = {scratch_.float_keys, scratch_.float_values, scratch_.spoil};
    widen_key_block(plan_, kernels_, kv_head_, block, writes, scratch_, tile);
    return tile;
  }

  CodeRows take_keys_of(int64_t block, bool writes) {
    return take_keys_as_codes(plan_, kernels_, keys_, block, true, writes, scratch_, scratch_.keys,
                              scratch_.key_scale);
  }

  CodeRows take_values_of(int64_t block, bool writes) {
    const int64_t padded = plan_.few ? plan_.value_stride : plan_.value_channels;
    return take_values_as_codes(plan_, kernels_, values_, block, writes, padded, scratch_);
  }

  void take(const Attending& by, const KeyBlock& b, bool writes) {
    const int64_t block = b.first / kKeyBlock;
    if (plan_.computes_fp8()) {
      attend_bfloat_block(by, take_bfloats(block, writes), b, lanes_);
      return;
    }
    if (plan_.computes_float()) {
      attend_float_block(by, widen(block, writes), b, lanes_);
      return;
    }
    if (plan_.few_int4()) {
      attend_few_int4(by, b, writes);
      return;
    }
    const CodeRows keys = take_keys_of(block, writes), values = take_values_of(block, writes);
    kernels_.value_scales(values.scale, kKeyBlock, scratch_.value_log2, scratch_.value_inverse);
    if (plan_.few) {
      attend_few(by, b, keys, values);
      return;
    }
    start_scores(plan_, kernels_, keys, scratch_.score_start);
    kernels_.transpose_codes(values.codes, values.stride, plan_.value_channels, scratch_.columns);
    attend_codes(by,
                 {keys.codes, keys.stride, scratch_.columns, scratch_.score_start, keys.scale,
                  scratch_.value_log2, scratch_.value_inverse},
                 b, lanes_);
  }

  void attend_few(const Attending& by, const KeyBlock& b, const CodeRows& keys,
                  const CodeRows& values) {
    for (int first = 0; first < rows_.count; first += kMostFew) {
      const int left = rows_.count - first;
      attend_these_few(by, b, keys, values, first, left < kMostFew ? left : kMostFew);
    }
  }

  // Queries first..first + count - 1.
  void attend_these_few(const Attending& by, const KeyBlock& b, const CodeRows& keys,
                        const CodeRows& values, int first, int count) {
    const auto* queries = reinterpret_cast<const int8_t*>(scratch_.queries);
    FewBlock block;
    block.keys = b.keys;
    block.queries = count;
    block.scores = scratch_.scores;
    block.query_scale = lanes_.query_scale + first;
    block.key_scale = keys.scale;
    block.value_log2 = scratch_.value_log2;
    block.value_inverse = scratch_.value_inverse;
    block.limits = b.limits == nullptr ? nullptr : b.limits + first;
    block.bias = b.kind == TileKind::kMixed ? by.scratch.tile + first * kKeyBlock : nullptr;
    block.weights = scratch_.weights;
    block.running_max = lanes_.chunk.max + first;
    block.running_sum = lanes_.chunk.sum + first;
    block.keep = lanes_.keep + first;
    block.gain = lanes_.gain + first;
    kernels_.few_scores(keys.codes, keys.stride, plan_.code_stride,
                        queries + first * plan_.code_stride, count, b.keys, scratch_.scores);
    kernels_.few_softmax(block);
    kernels_.few_accumulate(values.codes, values.stride, plan_.value_stride, scratch_.weights,
                            count, block.keep, block.gain,
                            lanes_.chunk.output + first * plan_.value_stride);
  }

  void attend_few_int4(const Attending& by, const KeyBlock& b, bool writes) {
    const int64_t block = b.first / kKeyBlock, channels = plan_.request.qk_channels;
    const int count = rows_.count;
    Int4Keys groups[kGroupsOfBlock];
    take_int4_keys(plan_, kernels_, keys_, block, writes, scratch_, groups);
    const Int4Values values = take_int4_values(plan_, kernels_, values_, block, writes, scratch_);
    for (int slot = 0; slot < kGroupsOfBlock && slot * kInt4KeyGroup < b.keys; ++slot) {
      const Int4Keys& group = groups[slot];
      float* scores = scratch_.float_scores + slot * kInt4KeyGroup;
      if (group.numbers == nullptr) {
        kernels_.few_int4_scores(group.codes, group.code_stride, group.scale, group.zero_point,
                                 channels, scratch_.float_queries, count, scores);
      } else {
        kernels_.few_float_scores(group.numbers, channels, scratch_.float_queries, count,
                                  kInt4KeyGroup, scores);
      }
    }
    for (int j = 0; j < kKeyBlock; ++j) scratch_.spoil[j] = 0.0f;
    const float* bias = b.kind == TileKind::kMixed ? by.scratch.tile : nullptr;
    kernels_.few_float_softmax({b.keys, count, scratch_.float_scores, lanes_.query_scale,
                                scratch_.spoil, b.limits, bias, lanes_.chunk.max, lanes_.chunk.sum,
                                lanes_.keep});
    const int64_t left = tokens_of(plan_.request, rows_.batch).length - b.first;
    kernels_.few_int4_accumulate(values, scratch_.float_scores, count,
                                 static_cast<int>(left < b.keys ? left : b.keys), lanes_.keep,
                                 lanes_.chunk.output, plan_.output_channels());
  }

  const Plan& plan_;
  const Kernels& kernels_;
  const int64_t kv_head_;
  const WorkerScratch& scratch_;
  const Side keys_, values_;
  const QueryRows rows_;
  const Reach reach_;
  const Averaging none_ = {};
  const Attending by_;
  Lanes lanes_;
};

}  // namespace

void stream_head(const Plan& plan, const Kernels& kernels, int64_t kv_head,
                 const WorkerScratch& scratch) {
  Stream stream(plan, kernels, kv_head, scratch);
  stream.take_all();
  stream.finish();
}

void stream_chunk(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t chunk,
                  const ChunkState& result, const WorkerScratch& scratch) {
  Stream(plan, kernels, kv_head, scratch).take_one(chunk, result);
}

void join_head(const Plan& plan, const Kernels& kernels, int64_t kv_head, char* chunks,
               const WorkerScratch& scratch) {
  Stream stream(plan, kernels, kv_head, scratch);
  for (int64_t chunk = 0; chunk < plan.key_chunks; ++chunk) {
    stream.join(chunk_state_at(plan, chunks + static_cast<size_t>(chunk) * plan.chunk_bytes));
  }
  stream.finish();
}

}  // namespace qfa
