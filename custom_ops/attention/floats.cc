#include "attention/floats.h"

#include <math.h>
#include <string.h>

#include "attention/dtype.h"
#include "attention/fp8.h"
#include "attention/prefetch.h"
#include "attention/rows.h"
#include "attention/side.h"
#include "attention/tokens.h"

namespace qfa {
namespace {

// Rows of one side as numbers, from a cache of numbers or of 8-bit floats.
class Numbers {
 public:
  Numbers(const Plan& plan, const Kernels& kernels, const Side& side, bool writes,
          const WorkerScratch& scratch)
      : kernels_(kernels),
        side_(side),
        writes_(writes && side.is_wanted()),
        copies_(writes_ && !side.is_in_place()),
        scratch_(scratch),
        fp8_(fp8_of(plan.request, kernels)) {}

  bool writes() const { return writes_; }
  bool copies() const { return copies_; }

  void take_fresh(int64_t fresh, int64_t token, float* row) const {
    const char* source = side_.fresh_row(fresh);
    if (fp8_.load == nullptr) {
      if (writes_) side_.put_numbers(token, source);
      load_row(kernels_, side_.fresh->dtype, source, nullptr, side_.channels, row);
      return;
    }
    load_row(kernels_, side_.fresh->dtype, source, nullptr, side_.channels, scratch_.row);
    const float scale = fp8_.quantize(scratch_.row, side_.channels, scratch_.fp8_codes);
    fp8_.load(scratch_.fp8_codes, scale, side_.channels, row);
    if (writes_) side_.put_codes(token, scratch_.fp8_codes, scale);
  }

  void take_old(int64_t token, float* row) const {
    if (copies_) side_.copy_old(token);
    if (fp8_.load == nullptr) {
      const char* source = side_.past_row(token);
      const int64_t size = element_size(side_.fresh->dtype);
      prefetch(source, block_ahead(side_.past->row_stride, size), side_.channels * size);
      load_row(kernels_, side_.fresh->dtype, source, nullptr, side_.channels, row);
      return;
    }
    const uint8_t* codes = side_.codes_row(*side_.past_codes, token);
    prefetch(codes, block_ahead(side_.past_codes->codes_strides[2], 1), side_.channels);
    fp8_.load(codes, side_.scale_of_old(token), side_.channels, row);
  }

 private:
  const Kernels& kernels_;
  const Side& side_;
  const bool writes_, copies_;
  const WorkerScratch& scratch_;
  const Fp8 fp8_;
};

// Takes the tokens of a block from one side into rows of `stride` floats, zeros behind `channels`.
void take_numbers(const Plan& plan, const Kernels& kernels, const Side& side, int64_t key_block,
                  bool writes, const WorkerScratch& scratch, int64_t stride, float* rows) {
  const Tokens tokens = tokens_of(plan.request, side.batch);
  const Numbers source(plan, kernels, side, writes, scratch);
  for (int64_t j = 0; j < kKeyBlock; ++j, rows += stride) {
    const int64_t token = key_block * kKeyBlock + j;
    const bool is_seen = token < tokens.length;
    if (token < tokens.end && (is_seen || source.writes())) {
      if (tokens.is_new(token)) {
        source.take_fresh(token - tokens.start, token, rows);
      } else if (is_seen) {
        source.take_old(token, rows);
      } else if (source.copies()) {
        side.copy_old(token);
      }
    }
    const int64_t from = is_seen ? side.channels : 0;
    memset(rows + from, 0, static_cast<size_t>(stride - from) * sizeof(float));
  }
}

}  // namespace

void widen_key_block(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t key_block,
                     bool writes, const WorkerScratch& scratch, const FloatTile& tile) {
  const qfa_attention& a = plan.request;
  take_numbers(plan, kernels, key_side(plan, kv_head), key_block, writes, scratch, a.qk_channels,
               tile.keys);
  take_numbers(plan, kernels, value_side(plan, kv_head), key_block, writes, scratch,
               plan.value_channels, tile.values);
  // A weight of zero would not hide what is not finite: such a row is emptied, and spoils those
  // that see its key.
  kernels.spoil_rows(tile.values, plan.value_channels, kKeyBlock, tile.spoil);
}

void attend_float_block(const Attending& by, const FloatTile& tile, const KeyBlock& b,
                        Lanes& lanes) {
  const Plan& plan = by.plan;
  const Kernels& kernels = by.kernels;
  const WorkerScratch& scratch = by.scratch;
  const int64_t channels = plan.request.qk_channels;
  const float* bias = b.kind == TileKind::kMixed ? scratch.tile : nullptr;
  if (plan.few) {
    kernels.few_float_scores(tile.keys, channels, scratch.float_queries, by.rows.count, b.keys,
                             scratch.float_scores);
    kernels.few_float_softmax({b.keys, by.rows.count, scratch.float_scores, lanes.query_scale,
                               tile.spoil, b.limits, bias, lanes.chunk.max, lanes.chunk.sum,
                               lanes.keep});
    kernels.few_float_accumulate(tile.values, plan.value_channels, scratch.float_scores,
                                 by.rows.count, b.keys, lanes.keep, lanes.chunk.output);
    return;
  }
  FloatBlock block;
  block.keys = b.keys;
  block.vectors = b.vectors;
  block.scores = scratch.float_scores;
  block.query_scale = lanes.query_scale;
  block.spoil = tile.spoil;
  block.cap = plan.cap_base2;
  block.inverse = plan.cap_inverse;
  block.limits = b.limits;
  block.bias = bias;
  block.running_max = lanes.chunk.max;
  block.running_sum = lanes.chunk.sum;
  block.keep = lanes.keep;
  kernels.float_scores(tile.keys, channels, scratch.float_queries, b.keys, b.vectors,
                       scratch.float_scores);
  kernels.float_softmax(block);
  kernels.float_accumulate(tile.values, plan.value_channels, scratch.float_scores, b.keys,
                           lanes.keep, b.vectors, lanes.chunk.output);
}

void attend_floats(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t query_block,
                   const HeadFloats& floats, const WorkerScratch& scratch) {
  const QueryRows rows = query_rows(plan, kv_head, query_block);
  const Reach reach = reach_of(plan, rows);
  Lanes lanes;
  for (float& scale : lanes.query_scale) scale = plan.score_factor;
  widen_queries(plan, kernels, rows, scratch);
  const auto take_all = [&](const Attending& by) {
    const auto take = [&](const KeyBlock& b, Lanes& l) {
      attend_float_block(by,
                         {floats.keys + b.first * plan.request.qk_channels,
                          floats.values + b.first * plan.value_channels, floats.spoil + b.first},
                         b, l);
    };
    take_keys(by, reach.first_chunk(), reach.end_chunk(), lanes, take, [](int64_t) {});
  };
  const Averaging none = {};
  const Attending by = {plan, kernels, rows, reach, none, scratch};
  take_all(by);
  finish_queries(by, lanes, take_all);
}

}  // namespace qfa
