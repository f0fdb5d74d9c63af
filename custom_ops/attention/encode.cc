#include "attention/encode.h"

#include <string.h>

#include "attention/dtype.h"
#include "attention/prefetch.h"
#include "attention/rows.h"
#include "attention/tokens.h"
#include "kernels/score_zero.h"

namespace qfa {
namespace {

constexpr float kOnes[kKeyBlock] = {
#define QFA_SIXTEEN_ONES 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1
    QFA_SIXTEEN_ONES, QFA_SIXTEEN_ONES, QFA_SIXTEEN_ONES, QFA_SIXTEEN_ONES
#undef QFA_SIXTEEN_ONES
};

// Codes of tokens on their way from the cache that was given, or from new rows, to a tile of rows
// of `padded` codes. See take_tokens.
class TokenCodes {
 public:
  TokenCodes(const Kernels& kernels, const Side& side, bool writes, int64_t padded, float* row,
             int8_t* tile, float* scale)
      : kernels_(kernels),
        side_(side),
        coded_(side.request->kv_format != QFA_KV_FLOAT),
        writes_(writes && side.is_wanted()),
        copies_(writes_ && !side.is_in_place()),
        padded_(padded),
        row_(row),
        tile_(tile),
        scale_(scale) {}

  bool writes() const { return writes_; }
  bool copies() const { return copies_; }

  void take_fresh(int64_t j, int64_t fresh, int64_t token) const {
    const char* source = side_.fresh_row(fresh);
    if (writes_ && !coded_) side_.put_numbers(token, source);
    encode(j, source);
    if (writes_ && coded_) side_.put_codes(token, codes_of(j), scale_[j]);
  }

  void take_old(int64_t j, int64_t token) const {
    if (copies_) side_.copy_old(token);
    if (!coded_) {
      const char* source = side_.past_row(token);
      const int64_t size = element_size(side_.fresh->dtype);
      prefetch(source, block_ahead(side_.past->row_stride, size), side_.channels * size);
      encode(j, source);
      return;
    }
    const size_t channels = static_cast<size_t>(side_.channels);
    memcpy(codes_of(j), side_.codes_row(*side_.past_codes, token), channels);
    memset(codes_of(j) + channels, 0, static_cast<size_t>(padded_) - channels);
    scale_[j] = side_.scale_of_old(token);
  }

  void hide(int64_t j) const {
    memset(codes_of(j), 0, static_cast<size_t>(padded_));
    scale_[j] = 1.0f;
  }

  // Of a block of tokens: where they are, or in the tile's.
  const float* scales_of(int64_t first) const {
    if (side_.channel_scale != nullptr) return kOnes;
    if (side_.past_codes->scale_strides[2] == 1) {
      const char* start = side_.scale_row(*side_.past_codes, first, 4);
      // Those of the next block: too few for the processor to see where they lead.
      prefetch(start, kKeyBlock * 4, kKeyBlock * 4);
      const bool is_aligned = reinterpret_cast<uintptr_t>(start) % alignof(float) == 0;
      if (is_aligned) return reinterpret_cast<const float*>(start);
    }
    for (int64_t j = 0; j < kKeyBlock; ++j) scale_[j] = side_.scale_of_old(first + j);
    return scale_;
  }

 private:
  int8_t* codes_of(int64_t j) const { return tile_ + j * padded_; }

  void encode(int64_t j, const char* source) const {
    scale_[j] = encode_row(kernels_, side_, side_.fresh->dtype, source, padded_, row_, codes_of(j));
  }

  const Kernels& kernels_;
  const Side& side_;
  const bool coded_, writes_, copies_;
  const int64_t padded_;
  float* const row_;
  int8_t* const tile_;
  float* const scale_;
};

// The steps of the channels, which may be unaligned.
float channel_scale_at(const float* scales, int64_t channel) {
  float scale;
  memcpy(&scale, reinterpret_cast<const char*>(scales) + 4 * channel, 4);
  return scale;
}

}  // namespace

float encode_row(const Kernels& kernels, const Side& side, qfa_dtype dtype, const char* source,
                 int64_t padded, float* row, int8_t* codes) {
  const int64_t channels = side.channels;
  memset(codes + channels, 0, static_cast<size_t>(padded - channels));
  const bool as_it_is = dtype == QFA_FLOAT32 && side.mean == nullptr && side.rotation_block == 0 &&
                        side.channel_scale == nullptr;
  if (as_it_is) return kernels.quantize_row(source, channels, side.static_scale, codes);
  load_row(kernels, dtype, source, side.mean, channels, row);
  if (side.rotation_block != 0) kernels.rotate_row(row, channels, side.rotation_block);
  if (side.channel_scale == nullptr) {
    return kernels.quantize_row(row, channels, side.static_scale, codes);
  }
  for (int64_t c = 0; c < channels; ++c) row[c] /= channel_scale_at(side.channel_scale, c);
  kernels.quantize_row(row, channels, 1.0f, codes);
  return 1.0f;
}

CodeRows take_codes(const Plan& plan, const Kernels& kernels, const Side& side, int64_t key_block,
                    bool may_borrow, bool writes, int64_t padded, float* row, int8_t* tile,
                    float* scale) {
  const Tokens tokens = tokens_of(plan.request, side.batch);
  const TokenCodes source(kernels, side, writes, padded, row, tile, scale);
  const int64_t first = key_block * kKeyBlock;
  if (may_borrow && plan.request.kv_format == QFA_KV_INT8 && side.channels == padded &&
      tokens.are_old(first, first + kKeyBlock)) {
    for (int64_t j = 0; source.copies() && j < kKeyBlock; ++j) side.copy_old(first + j);
    const uint8_t* codes = side.codes_row(*side.past_codes, first);
    return {reinterpret_cast<const int8_t*>(codes), side.past_codes->codes_strides[2],
            source.scales_of(first)};
  }
  take_tokens(side, key_block, source);
  return {tile, padded, scale};
}

void start_scores(const Plan& plan, const Kernels& kernels, const CodeRows& keys,
                  int32_t* score_start) {
  struct Ones {
    constexpr Ones() : codes() {
      for (int8_t& code : codes) code = 1;
    }
    int8_t codes[1024];
  };
  alignas(64) static constexpr Ones kOnes;
  kernels.few_scores(keys.codes, keys.stride, plan.code_stride, kOnes.codes, 1, kKeyBlock,
                     score_start);
  const int32_t zero = score_zero(plan.code_groups);
  for (int64_t j = 0; j < kKeyBlock; ++j) score_start[j] = zero - 128 * score_start[j];
}

}  // namespace qfa
