// One side of a cache, keys or values: what both have in common.
#ifndef QFA_ATTENTION_SIDE_H_
#define QFA_ATTENTION_SIDE_H_

#include <stdint.h>

#include "attention/plan.h"
#include "attention/tokens.h"
#include "qfa/qfa.h"

namespace qfa {

// The side of one key/value head of one batch.
struct Side {
  const qfa_attention* request;
  int64_t batch, head;
  int64_t channels;
  const qfa_tensor* fresh;  // new rows
  const qfa_tensor* past;   // of a float cache
  const qfa_target* present;
  const qfa_codes* past_codes;  // of a quantized cache
  const qfa_codes* present_codes;
  const float* mean;           // null, or subtracted from each row
  int64_t rotation_block;      // 0: rows are not rotated
  float static_scale;          // 0: a scale per token
  const float* channel_scale;  // null, or [channels]; may be unaligned
  const char* kept_open;       // null, or open keys that were kept, [32][channels]

  // Whether what is joined is to be written, and whether it is written where it was read.
  bool is_wanted() const { return present->data != nullptr || present_codes->codes != nullptr; }
  bool is_in_place() const;

  const char* fresh_row(int64_t row) const;
  const char* past_row(int64_t row) const;  // of a float cache
  char* present_row(int64_t row) const;
  // Rows of codes, of `codes` past_codes or present_codes.
  uint8_t* codes_row(const qfa_codes& codes, int64_t row) const;
  // Row `row` of scales, whose elements take `size` bytes, and of zero points.
  char* scale_row(const qfa_codes& codes, int64_t row, int64_t size) const;
  int8_t* zero_point_row(const qfa_codes& codes, int64_t row) const;
  // To the present cache: a row of numbers as it is; codes of 8 bits with their scale; a row of the
  // cache that was given.
  void put_numbers(int64_t token, const char* source) const;
  void put_codes(int64_t token, const void* codes, float scale) const;
  void copy_old(int64_t token) const;
  // The scale of a row of codes of 8 bits, 1 where scales are per channel.
  float scale_of_old(int64_t token) const;
  // Keys of an incomplete group, of a 4-bit cache: as they were given, where they must be read
  // (perhaps kept aside), and where they go.
  const char* past_open_row(int64_t row) const;
  const char* open_row(int64_t row) const;
  char* present_open_row(int64_t row) const;
};

Side key_side(const Plan& plan, int64_t kv_head);
Side value_side(const Plan& plan, int64_t kv_head);

// Goes through the 64 tokens of a block. Source takes one: take_fresh(j, row, token) a new row,
// take_old(j, token) one of the cache that was given. What is joined goes to the present cache
// where the source writes(); a token that cannot be seen is taken only for that, and then emptied
// by hide(j).
template <typename Source>
void take_tokens(const Side& side, int64_t key_block, const Source& source) {
  const Tokens tokens = tokens_of(*side.request, side.batch);
  for (int64_t j = 0; j < kKeyBlock; ++j) {
    const int64_t token = key_block * kKeyBlock + j;
    const bool is_seen = token < tokens.length;
    if (token < tokens.end && (is_seen || source.writes())) {
      if (tokens.is_new(token)) {
        source.take_fresh(j, token - tokens.start, token);
      } else if (is_seen) {
        source.take_old(j, token);
      } else if (source.copies()) {
        side.copy_old(token);
      }
    }
    if (!is_seen) source.hide(j);
  }
}

// The static scale of a head, 0 for a scale per token.
float static_scale_of(const float* scales, int64_t count, int64_t head);

}  // namespace qfa

#endif  // QFA_ATTENTION_SIDE_H_
