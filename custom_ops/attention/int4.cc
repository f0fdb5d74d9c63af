#include "attention/int4.h"

#include <string.h>

#include "attention/dtype.h"
#include "attention/rows.h"
#include "attention/tokens.h"

namespace qfa {
namespace {

constexpr int64_t kHalfBytes = 2;

int64_t packed_bytes(int64_t channels) { return (channels + 1) / 2; }

// The groups of one side of one head on their way from the past to a block, and to the present.
class KeyGroups {
 public:
  KeyGroups(const Plan& plan, const Kernels& kernels, const Side& side, bool writes,
            const WorkerScratch& scratch)
      : kernels_(kernels),
        side_(side),
        tokens_(tokens_of(plan.request, side.batch)),
        stored_(tokens_.start + tokens_.added),
        writes_(writes && side.is_wanted()),
        copies_(writes_ && !side.is_in_place()),
        scratch_(scratch) {}

  Int4Keys take(int64_t group, int slot) const {
    const int64_t first = group * kInt4KeyGroup, last = first + kInt4KeyGroup;
    if (last <= tokens_.start) {
      if (copies_) copy(group);
      return coded(*side_.past_codes, group);
    }
    float* numbers = scratch_.float_keys + slot * kInt4KeyGroup * side_.channels;
    for (int64_t i = 0; i < kInt4KeyGroup; ++i) number(first + i, numbers + i * side_.channels);
    if (last > stored_) {
      if (writes_) put_open(first);
      return {nullptr, 0, nullptr, nullptr, numbers};
    }
    return code(group, slot, numbers);
  }

 private:
  Int4Keys coded(const qfa_codes& codes, int64_t group) const {
    return {side_.codes_row(codes, group * kInt4KeyGroup), codes.codes_strides[2],
            side_.scale_row(codes, group, kHalfBytes), side_.zero_point_row(codes, group), nullptr};
  }

  size_t scale_bytes() const { return static_cast<size_t>(side_.channels * kHalfBytes); }

  void copy(int64_t group) const {
    const qfa_codes &past = *side_.past_codes, &present = *side_.present_codes;
    for (int64_t i = 0; i < kInt4KeyGroup; ++i) {
      const int64_t token = group * kInt4KeyGroup + i;
      memcpy(side_.codes_row(present, token), side_.codes_row(past, token),
             static_cast<size_t>(packed_bytes(side_.channels)));
    }
    memcpy(side_.scale_row(present, group, kHalfBytes), side_.scale_row(past, group, kHalfBytes),
           scale_bytes());
    memcpy(side_.zero_point_row(present, group), side_.zero_point_row(past, group),
           static_cast<size_t>(side_.channels));
  }

  // Codes of a group that has become complete, in the tile and in the present.
  Int4Keys code(int64_t group, int slot, const float* numbers) const {
    const int64_t width = packed_bytes(side_.channels);
    uint8_t* codes = scratch_.int4_codes + slot * kInt4KeyGroup * width;
    char* scale = scratch_.int4_scale + slot * kHalfBytes * side_.channels;
    int8_t* zero_point = scratch_.int4_zero_point + slot * side_.channels;
    kernels_.quantize_int4_keys(numbers, side_.channels, side_.channels, codes, width, scale,
                                zero_point);
    if (writes_) {
      const qfa_codes& present = *side_.present_codes;
      for (int64_t i = 0; i < kInt4KeyGroup; ++i) {
        memcpy(side_.codes_row(present, group * kInt4KeyGroup + i), codes + i * width,
               static_cast<size_t>(width));
      }
      memcpy(side_.scale_row(present, group, kHalfBytes), scale, scale_bytes());
      memcpy(side_.zero_point_row(present, group), zero_point, static_cast<size_t>(side_.channels));
    }
    return {codes, width, scale, zero_point, nullptr};
  }

  // Where the number of a token that is not coded in the past stands.
  const char* source(int64_t token) const {
    if (tokens_.is_new(token)) return side_.fresh_row(token - tokens_.start);
    return side_.open_row(token % kInt4KeyGroup);
  }

  void number(int64_t token, float* row) const {
    if (token >= stored_) {
      memset(row, 0, static_cast<size_t>(side_.channels) * sizeof(float));
      return;
    }
    load_row(kernels_, side_.fresh->dtype, source(token), side_.mean, side_.channels, row);
    if (side_.rotation_block != 0) {
      kernels_.rotate_row(row, side_.channels, side_.rotation_block);
    }
  }

  // The open keys of the group that starts at `first`.
  void put_open(int64_t first) const {
    const size_t bytes = static_cast<size_t>(side_.channels * element_size(side_.fresh->dtype));
    for (int64_t token = first; token < stored_; ++token) {
      if (!tokens_.is_new(token) && !copies_) continue;
      memcpy(side_.present_open_row(token % kInt4KeyGroup), source(token), bytes);
    }
  }

  const Kernels& kernels_;
  const Side& side_;
  const Tokens tokens_;
  const int64_t stored_;  // tokens of the present
  const bool writes_, copies_;
  const WorkerScratch& scratch_;
};

}  // namespace

void take_int4_keys(const Plan& plan, const Kernels& kernels, const Side& side, int64_t key_block,
                    bool writes, const WorkerScratch& scratch, Int4Keys (&groups)[kGroupsOfBlock]) {
  const KeyGroups source(plan, kernels, side, writes, scratch);
  for (int slot = 0; slot < kGroupsOfBlock; ++slot) {
    groups[slot] = source.take(key_block * kGroupsOfBlock + slot, slot);
  }
}

Int4Values take_int4_values(const Plan& plan, const Kernels& kernels, const Side& side,
                            int64_t key_block, bool writes, const WorkerScratch& scratch) {
  const qfa_attention& a = plan.request;
  const Tokens tokens = tokens_of(a, side.batch);
  const bool puts = writes && side.is_wanted(), copies = puts && !side.is_in_place();
  const int64_t first = key_block * kKeyBlock, width = packed_bytes(side.channels);
  const int64_t groups = (side.channels + a.v_group - 1) / a.v_group;
  const qfa_codes &past = *side.past_codes, &present = *side.present_codes;
  const auto put = [&](int64_t token, const void* codes, const void* scale, const void* zeros) {
    memcpy(side.codes_row(present, token), codes, static_cast<size_t>(width));
    memcpy(side.scale_row(present, token, kHalfBytes), scale,
           static_cast<size_t>(groups * kHalfBytes));
    memcpy(side.zero_point_row(present, token), zeros, static_cast<size_t>(groups));
  };
  const int64_t last = first + kKeyBlock < tokens.end ? first + kKeyBlock : tokens.end;
  const int64_t seen = last < tokens.length ? last : tokens.length;
  if (seen <= first && !puts) return {};  // nothing is read
  if (tokens.are_old(first, seen) && (!puts || tokens.are_old(first, last))) {
    for (int64_t token = first; copies && token < last; ++token) {
      put(token, side.codes_row(past, token), side.scale_row(past, token, kHalfBytes),
          side.zero_point_row(past, token));
    }
    return {side.codes_row(past, first),
            past.codes_strides[2],
            side.scale_row(past, first, kHalfBytes),
            side.zero_point_row(past, first),
            past.scale_strides[2],
            a.v_group,
            side.channels};
  }
  for (int64_t token = first; token < last; ++token) {
    const int64_t j = token - first;
    uint8_t* codes = scratch.int4_value_codes + j * width;
    char* scale = scratch.int4_value_scale + j * groups * kHalfBytes;
    int8_t* zeros = scratch.int4_value_zero_point + j * groups;
    if (tokens.is_new(token)) {
      load_row(kernels, side.fresh->dtype, side.fresh_row(token - tokens.start), nullptr,
               side.channels, scratch.row);
      kernels.quantize_int4_row(scratch.row, side.channels, a.v_group, codes, scale, zeros);
      if (puts) put(token, codes, scale, zeros);
    } else if (token < tokens.length || copies) {
      memcpy(codes, side.codes_row(past, token), static_cast<size_t>(width));
      memcpy(scale, side.scale_row(past, token, kHalfBytes),
             static_cast<size_t>(groups * kHalfBytes));
      memcpy(zeros, side.zero_point_row(past, token), static_cast<size_t>(groups));
      if (copies) put(token, codes, scale, zeros);
    }
  }
  return {scratch.int4_value_codes,
          width,
          scratch.int4_value_scale,
          scratch.int4_value_zero_point,
          groups,
          a.v_group,
          side.channels};
}

CodeRows take_int4_as_codes(const Plan& plan, const Kernels& kernels, const Side& side,
                            bool holds_keys, int64_t key_block, bool writes, int64_t padded,
                            const WorkerScratch& scratch, int8_t* tile, float* scale) {
  const qfa_attention& a = plan.request;
  const int64_t channels = side.channels;
  Int4Keys groups[kGroupsOfBlock];
  Int4Values values = {};
  if (holds_keys) {
    take_int4_keys(plan, kernels, side, key_block, writes, scratch, groups);
    for (int slot = 0; slot < kGroupsOfBlock; ++slot) {
      Int4Keys& group = groups[slot];
      if (group.numbers != nullptr) continue;
      float* numbers = scratch.float_keys + slot * kInt4KeyGroup * channels;
      kernels.load_int4_keys(group.codes, group.code_stride, group.scale, group.zero_point,
                             channels, kInt4KeyGroup, numbers, channels);
      group.numbers = numbers;
    }
  } else {
    values = take_int4_values(plan, kernels, side, key_block, writes, scratch);
  }
  const int64_t length = tokens_of(a, side.batch).length;
  for (int64_t j = 0; j < kKeyBlock; ++j) {
    int8_t* codes = tile + j * padded;
    memset(codes, 0, static_cast<size_t>(padded));
    scale[j] = 1.0f;
    if (key_block * kKeyBlock + j >= length) continue;
    const float* numbers = scratch.row;
    if (!holds_keys) {
      kernels.load_int4_row(
          values.codes + j * values.code_stride,
          static_cast<const char*>(values.scale) + j * values.scale_stride * kHalfBytes,
          values.zero_point + j * values.scale_stride, a.v_group, channels, scratch.row);
    } else {
      numbers = groups[j / kInt4KeyGroup].numbers + j % kInt4KeyGroup * channels;
    }
    scale[j] = kernels.quantize_row(numbers, channels, 0.0f, codes);
  }
  return {tile, padded, scale};
}

bool keeps_open_keys(const qfa_attention& a) {
  if (a.kv_format != QFA_KV_INT4 || a.present_keys.open != a.past_keys.open) return false;
  for (int64_t batch = 0; batch < a.batch; ++batch) {
    const Tokens tokens = tokens_of(a, batch);
    const int64_t stored = tokens.start + tokens.added;
    if (tokens.start % kInt4KeyGroup != 0 && stored % kInt4KeyGroup != 0 &&
        stored / kInt4KeyGroup > tokens.start / kInt4KeyGroup) {
      return true;
    }
  }
  return false;
}

void keep_open_keys(const Plan& plan, int64_t kv_head) {
  const Side side = key_side(plan, kv_head);
  const int64_t open = tokens_of(plan.request, side.batch).start % kInt4KeyGroup;
  for (int64_t row = 0; row < open; ++row) {
    memcpy(plan.kept_open_row(kv_head, row), side.past_open_row(row),
           static_cast<size_t>(side.channels * element_size(side.fresh->dtype)));
  }
}

}  // namespace qfa
