#include "attention/bfloats.h"

#include <math.h>
#include <string.h>

#include "attention/floats.h"
#include "attention/fp8.h"
#include "attention/rows.h"
#include "attention/side.h"

namespace qfa {
namespace {

// Codes of tokens of one side, from a cache of numbers or of 8-bit floats, as floats in rows of
// `stride`, zeros behind the channels, and their scales. See take_tokens.
class Codes {
 public:
  Codes(const Kernels& kernels, const Side& side, bool writes, const WorkerScratch& scratch,
        int64_t stride, float* rows, float* scale)
      : kernels_(kernels),
        side_(side),
        fp8_(fp8_of(*side.request, kernels)),
        is_coded_(side.request->kv_format != QFA_KV_FLOAT),
        writes_(writes && side.is_wanted()),
        copies_(writes_ && !side.is_in_place()),
        scratch_(scratch),
        stride_(stride),
        rows_(rows),
        scale_(scale) {}

  bool writes() const { return writes_; }
  bool copies() const { return copies_; }

  void take_fresh(int64_t j, int64_t fresh, int64_t token) const {
    const char* source = side_.fresh_row(fresh);
    encode(j, source);
    if (writes_ && is_coded_) side_.put_codes(token, scratch_.fp8_codes, scale_[j]);
    if (writes_ && !is_coded_) side_.put_numbers(token, source);
  }

  void take_old(int64_t j, int64_t token) const {
    if (copies_) side_.copy_old(token);
    if (!is_coded_) {
      encode(j, side_.past_row(token));
    } else {
      widen(j, side_.codes_row(*side_.past_codes, token), side_.scale_of_old(token));
    }
  }

  void hide(int64_t j) const {
    memset(rows_ + j * stride_, 0, static_cast<size_t>(stride_) * sizeof(float));
    scale_[j] = 1.0f;
  }

 private:
  void encode(int64_t j, const char* source) const {
    load_row(kernels_, side_.fresh->dtype, source, nullptr, side_.channels, scratch_.row);
    const float scale = fp8_.quantize(scratch_.row, side_.channels, scratch_.fp8_codes);
    widen(j, scratch_.fp8_codes, scale);
  }

  void widen(int64_t j, const uint8_t* codes, float scale) const {
    float* row = rows_ + j * stride_;
    fp8_.load(codes, 1.0f, side_.channels, row);
    memset(row + side_.channels, 0, static_cast<size_t>(stride_ - side_.channels) * sizeof(float));
    scale_[j] = scale;
  }

  const Kernels& kernels_;
  const Side& side_;
  const Fp8 fp8_;
  const bool is_coded_, writes_, copies_;
  const WorkerScratch& scratch_;
  const int64_t stride_;
  float* const rows_;
  float* const scale_;
};

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
  const Side keys = key_side(plan, kv_head), values = value_side(plan, kv_head);
  take_tokens(keys, key_block,
              Codes(kernels, keys, writes, scratch, width, scratch.float_keys, tile.key_scale));
  kernels.store_bfloat_row(scratch.float_keys, kKeyBlock * width, tile.keys);
  take_tokens(
      values, key_block,
      Codes(kernels, values, writes, scratch, channels, scratch.float_values, tile.value_scale));
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
  const FloatBlock block = float_block(by, b, tile.spoil, lanes);
  kernels.bfloat_scores(tile.keys, plan.bfloat_width, scratch.bfloat_queries, b.keys, b.vectors,
                        scratch.float_scores);
  kernels.bfloat_softmax(block, tile.key_scale, tile.value_scale, scratch.bfloat_weights);
  kernels.bfloat_accumulate(tile.columns, plan.value_channels, scratch.bfloat_weights, lanes.keep,
                            b.vectors, lanes.chunk.output);
}

void attend_bfloats(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t query_block,
                    const BfloatBlock& head, const WorkerScratch& scratch) {
  answer(
      plan, kernels, kv_head, query_block, scratch,
      [&](const QueryRows& rows, Lanes& lanes) {
        pack_bfloat_queries(plan, kernels, rows, scratch, lanes.query_scale);
      },
      [&](const Attending& by, const KeyBlock& b, Lanes& lanes) {
        attend_bfloat_block(by, plan.block_of(head, b.first), b, lanes);
      });
}

}  // namespace qfa
