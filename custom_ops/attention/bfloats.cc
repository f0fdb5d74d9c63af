#include "attention/bfloats.h"

#include <math.h>
#include <string.h>

#include "attention/dtype.h"
#include "attention/fp8.h"
#include "attention/rows.h"
#include "attention/side.h"
#include "attention/tokens.h"

namespace qfa {
namespace {

// Codes of tokens of one side, from a cache of numbers or of 8-bit floats.
class Codes {
 public:
  Codes(const Kernels& kernels, const Side& side, const Fp8& fp8, bool writes,
        const WorkerScratch& scratch)
      : kernels_(kernels),
        side_(side),
        fp8_(fp8),
        is_coded_(side.request->kv_format != QFA_KV_FLOAT),
        writes_(writes && side.is_wanted()),
        copies_(writes_ && !side.is_in_place()),
        scratch_(scratch) {}

  bool writes() const { return writes_; }
  bool copies() const { return copies_; }

  // Returns the scale.
  float take_fresh(int64_t fresh, int64_t token, const uint8_t** codes) const {
    const char* source = side_.fresh_row(fresh);
    const float scale = encode(source, codes);
    if (writes_ && is_coded_) side_.put_codes(token, *codes, scale);
    if (writes_ && !is_coded_) side_.put_numbers(token, source);
    return scale;
  }

  float take_old(int64_t token, const uint8_t** codes) const {
    if (copies_) side_.copy_old(token);
    if (!is_coded_) return encode(side_.past_row(token), codes);
    *codes = side_.codes_row(*side_.past_codes, token);
    return side_.scale_of_old(token);
  }

 private:
  float encode(const char* source, const uint8_t** codes) const {
    load_row(kernels_, side_.fresh->dtype, source, nullptr, side_.channels, scratch_.row);
    *codes = scratch_.fp8_codes;
    return fp8_.quantize(scratch_.row, side_.channels, scratch_.fp8_codes);
  }

  const Kernels& kernels_;
  const Side& side_;
  const Fp8& fp8_;
  const bool is_coded_, writes_, copies_;
  const WorkerScratch& scratch_;
};

// Takes the tokens of a block of one side: codes as floats into rows of `stride`, zeros behind
// `channels`, and their scales.
void take_side(const Plan& plan, const Kernels& kernels, const Side& side, int64_t key_block,
               bool writes, const WorkerScratch& scratch, int64_t stride, float* rows,
               float* scale) {
  const Tokens tokens = tokens_of(plan.request, side.batch);
  const Fp8 fp8 = fp8_of(plan.request, kernels);
  const Codes source(kernels, side, fp8, writes, scratch);
  for (int64_t j = 0; j < kKeyBlock; ++j, rows += stride) {
    const int64_t token = key_block * kKeyBlock + j;
    const bool is_seen = token < tokens.length;
    const uint8_t* codes = nullptr;
    scale[j] = 1.0f;
    if (token < tokens.end && (is_seen || source.writes())) {
      if (tokens.is_new(token)) {
        scale[j] = source.take_fresh(token - tokens.start, token, &codes);
      } else if (is_seen) {
        scale[j] = source.take_old(token, &codes);
      } else if (source.copies()) {
        side.copy_old(token);
      }
    }
    if (is_seen) {
      fp8.load(codes, 1.0f, side.channels, rows);
    } else {
      scale[j] = 1.0f;
    }
    const int64_t from = is_seen ? side.channels : 0;
    memset(rows + from, 0, static_cast<size_t>(stride - from) * sizeof(float));
  }
}

}  // namespace

void pack_bfloat_queries(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                         const WorkerScratch& scratch, float* query_scale) {
  const qfa_attention& a = plan.request;
  const Fp8 fp8 = fp8_of(a, kernels);
  const int64_t width = plan.bfloat_width;
  memset(scratch.bfloat_rows, 0, static_cast<size_t>(kLanes * width) * sizeof(uint16_t));
  for (int lane = 0; lane < kLanes; ++lane) {
    query_scale[lane] = 0.0f;
    if (lane >= rows.count) continue;
    load_row(kernels, a.query.dtype, query_row(plan, rows, lane), nullptr, a.qk_channels,
             scratch.row);
    const float scale = fp8.quantize(scratch.row, a.qk_channels, scratch.fp8_codes);
    fp8.load(scratch.fp8_codes, 1.0f, a.qk_channels, scratch.row);
    kernels.store_bfloat_row(scratch.row, a.qk_channels, scratch.bfloat_rows + lane * width);
    query_scale[lane] = scale * plan.score_factor;
  }
  kernels.pack_bfloats(scratch.bfloat_rows, width, scratch.bfloat_queries);
}

void take_bfloat_block(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t key_block,
                       bool writes, const WorkerScratch& scratch, const BfloatBlock& tile) {
  const int64_t width = plan.bfloat_width, channels = plan.value_channels;
  take_side(plan, kernels, key_side(plan, kv_head), key_block, writes, scratch, width,
            scratch.float_keys, tile.key_scale);
  kernels.store_bfloat_row(scratch.float_keys, kKeyBlock * width, tile.keys);
  take_side(plan, kernels, value_side(plan, kv_head), key_block, writes, scratch, channels,
            scratch.float_values, tile.value_scale);
  kernels.spoil_rows(scratch.float_values, channels, kKeyBlock, tile.spoil);
  for (int64_t j = 0; j < kKeyBlock; ++j) {
    // A weight of zero would not hide it.
    if (isfinite(tile.value_scale[j])) continue;
    tile.value_scale[j] = 0.0f;
    tile.spoil[j] = NAN;
  }
  kernels.store_bfloat_row(scratch.float_values, kKeyBlock * channels, scratch.bfloat_rows);
  kernels.transpose_bfloats(scratch.bfloat_rows, channels, channels, tile.columns);
}

void attend_bfloat_block(const Attending& by, const BfloatBlock& tile, const KeyBlock& b,
                         Lanes& lanes) {
  const Plan& plan = by.plan;
  const Kernels& kernels = by.kernels;
  const WorkerScratch& scratch = by.scratch;
  FloatBlock block;
  block.keys = b.keys;
  block.vectors = b.vectors;
  block.scores = scratch.float_scores;
  block.query_scale = lanes.query_scale;
  block.spoil = tile.spoil;
  block.cap = plan.cap_base2;
  block.inverse = plan.cap_inverse;
  block.limits = b.limits;
  block.bias = b.kind == TileKind::kMixed ? scratch.tile : nullptr;
  block.running_max = lanes.chunk.max;
  block.running_sum = lanes.chunk.sum;
  block.keep = lanes.keep;
  kernels.bfloat_scores(tile.keys, plan.bfloat_width, scratch.bfloat_queries, b.keys, b.vectors,
                        scratch.float_scores);
  kernels.bfloat_softmax(block, tile.key_scale, tile.value_scale, scratch.bfloat_weights);
  kernels.bfloat_accumulate(tile.columns, plan.value_channels, scratch.bfloat_weights, lanes.keep,
                            b.vectors, lanes.chunk.output);
}

void attend_bfloats(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t query_block,
                    const BfloatBlock& head, const WorkerScratch& scratch) {
  const QueryRows rows = query_rows(plan, kv_head, query_block);
  const Reach reach = reach_of(plan, rows);
  Lanes lanes;
  pack_bfloat_queries(plan, kernels, rows, scratch, lanes.query_scale);
  const auto take_all = [&](const Attending& by) {
    const auto take = [&](const KeyBlock& b, Lanes& l) {
      attend_bfloat_block(by, plan.block_of(head, b.first), b, l);
    };
    take_keys(by, reach.first_chunk(), reach.end_chunk(), lanes, take, [](int64_t) {});
  };
  const Averaging none = {};
  const Attending by = {plan, kernels, rows, reach, none, scratch};
  take_all(by);
  finish_queries(by, lanes, take_all);
}

}  // namespace qfa
