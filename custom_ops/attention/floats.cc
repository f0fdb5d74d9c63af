#include "attention/floats.h"

#include <string.h>

#include "attention/dtype.h"
#include "attention/fp8.h"
#include "attention/prefetch.h"
#include "attention/rows.h"
#include "attention/side.h"

namespace qfa {
namespace {

// Tokens of one side as numbers, from a cache of numbers or of 8-bit floats, in rows of `stride`,
// zeros behind the channels. See take_tokens.
class Numbers {
 public:
  Numbers(const Kernels& kernels, const Side& side, bool writes, const WorkerScratch& scratch,
          int64_t stride, float* rows)
      : kernels_(kernels),
        side_(side),
        writes_(writes && side.is_wanted()),
        copies_(writes_ && !side.is_in_place()),
        scratch_(scratch),
        fp8_(fp8_of(*side.request, kernels)),
        stride_(stride),
        rows_(rows) {}

  bool writes() const { return writes_; }
  bool copies() const { return copies_; }

  void take_fresh(int64_t j, int64_t fresh, int64_t token) const {
    float* row = row_of(j);
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

  void take_old(int64_t j, int64_t token) const {
    float* row = row_of(j);
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

  void hide(int64_t j) const {
    memset(rows_ + j * stride_, 0, static_cast<size_t>(stride_) * sizeof(float));
  }

 private:
  // Empty behind the channels.
  float* row_of(int64_t j) const {
    float* row = rows_ + j * stride_;
    memset(row + side_.channels, 0, static_cast<size_t>(stride_ - side_.channels) * sizeof(float));
    return row;
  }

  const Kernels& kernels_;
  const Side& side_;
  const bool writes_, copies_;
  const WorkerScratch& scratch_;
  const Fp8 fp8_;
  const int64_t stride_;
  float* const rows_;
};

}  // namespace

void widen_key_block(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t key_block,
                     bool writes, const WorkerScratch& scratch, const FloatTile& tile) {
  const Side keys = key_side(plan, kv_head), values = value_side(plan, kv_head);
  take_tokens(keys, key_block,
              Numbers(kernels, keys, writes, scratch, plan.request.qk_channels, tile.keys));
  take_tokens(values, key_block,
              Numbers(kernels, values, writes, scratch, plan.value_channels, tile.values));
  // A weight of zero would not hide what is not finite: such a row is emptied, and spoils those
  // that see its key.
  kernels.spoil_rows(tile.values, plan.value_channels, kKeyBlock, tile.spoil);
}

FloatBlock float_block(const Attending& by, const KeyBlock& b, const float* spoil, Lanes& lanes) {
  FloatBlock block;
  block.keys = b.keys;
  block.vectors = b.vectors;
  block.scores = by.scratch.float_scores;
  block.query_scale = lanes.query_scale;
  block.spoil = spoil;
  block.cap = by.plan.cap_base2;
  block.inverse = by.plan.cap_inverse;
  block.limits = b.limits;
  block.bias = b.kind == TileKind::kMixed ? by.scratch.tile : nullptr;
  block.running_max = lanes.chunk.max;
  block.running_sum = lanes.chunk.sum;
  block.keep = lanes.keep;
  return block;
}

void attend_float_block(const Attending& by, const FloatTile& tile, const KeyBlock& b,
                        Lanes& lanes) {
  const Plan& plan = by.plan;
  const Kernels& kernels = by.kernels;
  const WorkerScratch& scratch = by.scratch;
  const int64_t channels = plan.request.qk_channels;
  if (plan.few) {
    const float* bias = b.kind == TileKind::kMixed ? scratch.tile : nullptr;
    kernels.few_float_scores(tile.keys, channels, scratch.float_queries, by.rows.count, b.keys,
                             scratch.float_scores);
    kernels.few_float_softmax({b.keys, by.rows.count, scratch.float_scores, lanes.query_scale,
                               tile.spoil, b.limits, bias, lanes.chunk.max, lanes.chunk.sum,
                               lanes.keep});
    kernels.few_float_accumulate(tile.values, plan.value_channels, scratch.float_scores,
                                 by.rows.count, b.keys, lanes.keep, lanes.chunk.output);
    return;
  }
  const FloatBlock block = float_block(by, b, tile.spoil, lanes);
  kernels.float_scores(tile.keys, channels, scratch.float_queries, b.keys, b.vectors,
                       scratch.float_scores);
  kernels.float_softmax(block);
  kernels.float_accumulate(tile.values, plan.value_channels, scratch.float_scores, b.keys,
                           lanes.keep, b.vectors, lanes.chunk.output);
}

void attend_floats(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t query_block,
                   const HeadFloats& floats, const WorkerScratch& scratch) {
  answer(
      plan, kernels, kv_head, query_block, scratch,
      [&](const QueryRows& rows, Lanes& lanes) {
        for (float& scale : lanes.query_scale) scale = plan.score_factor;
        widen_queries(plan, kernels, rows, scratch);
      },
      [&](const Attending& by, const KeyBlock& b, Lanes& lanes) {
        attend_float_block(by,
                           {floats.keys + b.first * plan.request.qk_channels,
                            floats.values + b.first * plan.value_channels, floats.spoil + b.first},
                           b, lanes);
      });
}

}  // namespace qfa
