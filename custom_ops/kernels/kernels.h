// What every kernel of this library computes, as function types and the records that they share.
//
// A kernel has a kind (what it computes) and an instruction set (how). kernels.inc holds one line
// per kernel; the dispatch table, the tests and the benchmark are all made from those lines.
//
// Every kernel of one kind returns the same bits on every instruction set: the order of each
// floating-point operation is part of the contract, and products are added with a fused
// multiply-add exactly where these comments say fma. They run in the mode that attention/
// float_mode.h sets.
#ifndef QFA_KERNELS_KERNELS_H_
#define QFA_KERNELS_KERNELS_H_

#include <stdint.h>

#include "kernels/bfloats.h"
#include "kernels/formats.h"
#include "qfa/qfa.h"

namespace qfa {

// Queries travel side by side, one per vector lane: a query block has kLanes of them. Kernels that
// take `vectors` work on the first 16 * vectors lanes only (vectors is 1 or 2); pitches never
// change.
inline constexpr int kLanes = 32;
inline constexpr int kVectorLanes = 16;
inline constexpr int kKeyBlock = QFA_KEY_BLOCK;

// Rows of int8 codes are padded with zeros to this many bytes, channels of V to kChannelPad.
inline constexpr int kCodePad = 64;
inline constexpr int kChannelPad = 16;

// Four consecutive channels (or keys) of one lane form one 32-bit group of a packed operand:
// packed[group][lane][4], kGroupBytes per group.
inline constexpr int kGroupBytes = kLanes * 4;

// Packed queries take at most this many bytes per code.
inline constexpr int kPackedCodeBytes = 2;

// BlockSum, the order in which the weights of a block are added, the same whether lanes are queries
// or keys: part[i] for i in 0..15 takes keys i, 16 + i, 32 + i and 48 + i in this order, starting
// from 0, by fma; then column[q] = (part[4q] + part[4q + 1]) + (part[4q + 2] + part[4q + 3]), and
// the sum is (column[0] + column[1]) + (column[2] + column[3]). In float32 weights are added, not
// fma'd.

// One block of up to 64 keys against one block of query lanes. `keys` is a multiple of 16.
struct SoftmaxBlock {
  int keys;
  int vectors;
  int32_t* scores;           // [keys][kLanes] in: score_zero + K codes times Q codes; out: scratch
  int32_t score_zero;        // score_zero(groups), see kernels/score_zero.h
  const float* query_scale;  // [kLanes] what score_scale returns, or 0; log2(e) included
  const float* key_scale;    // [keys]
  const float* value_log2;   // [keys] log2 of the value scale
  const float* value_inverse;  // [keys] 1 / value scale
  const int32_t* limits;       // null, or [kLanes]: keys at or beyond the limit are masked
  const float* bias;           // null, or [keys][kLanes]: added to the scores; -inf masks
  uint8_t* weights;            // [16][kLanes][4] out: rint(255 * y), zero beyond `keys`
  float* running_max;          // [kLanes] in and out, starts at -inf
  float* running_sum;          // [kLanes] in and out, starts at 0
  float* keep;                 // [kLanes] out: factor of what was accumulated before
  float* gain;                 // [kLanes] out: factor of this block's products
};

// One block on its way to a softcap; `keys` is a multiple of 16.
struct CapBlock {
  int keys;
  int vectors;
  const int32_t* scores;  // as in SoftmaxBlock, as are the following
  int32_t score_zero;
  const float* query_scale;  // [kLanes]
  const float* key_scale;    // [keys]
  float cap;                 // above 0
  float inverse;             // 1 / (cap * log2(e))
  float* tile;               // [keys][kLanes] in: what is added to the scores, -inf masks
};

// One block of attention in float32; `keys` is a multiple of 16.
struct FloatBlock {
  int keys;
  int vectors;
  float* scores;             // [keys][kLanes] in: products of keys and queries; out: weights
  const float* query_scale;  // [kLanes] scale of the scores, log2(e) included
  const float* spoil;        // [keys] added: 0, or NaN for a value that is not finite
  float cap, inverse;        // softcap * log2(e) and 1 / cap; 0: none
  const int32_t* limits;     // as in SoftmaxBlock, as are the following
  const float* bias;
  float* running_max;
  float* running_sum;
  float* keep;
};

// row[i] = float(source[i]) - mean[i]; mean may be null. source and mean may be unaligned.
using load_float_row_fn = void(const void* source, const float* mean, int64_t count, float* row);
using load_half_row_fn = void(const void* source, const float* mean, int64_t count, float* row);
using load_bfloat_row_fn = void(const void* source, const float* mean, int64_t count, float* row);

// Unnormalised Walsh-Hadamard transform of each run of `block` values, block a power of two in
// 8..count. Butterflies of distance 1, 2, 4, ... in this order: (a, b) -> (a + b, a - b).
using rotate_row_fn = void(float* row, int64_t count, int64_t block);

// Codes of one row of floats, which may be unaligned; returns their scale, the value of one step.
// static_scale 0: the scale is absmax / 127, at least kSmallestScale, 0 for a row of zeros, and
// codes are rint(x * (127 / absmax)); else codes are rint(x / static_scale). Codes are clamped to
// -127..127. A row that holds a NaN or an infinity has the scale NaN and codes of 0.
using quantize_row_fn = float(const void* row, int64_t count, float static_scale, int8_t* codes);

// columns[c][j] = rows[j][c] for 64 rows and `channels` (a multiple of 16) columns.
using transpose_codes_fn = void(const int8_t* rows, int64_t row_stride, int64_t channels,
                                int8_t* columns);

// Packs kLanes rows of codes, each `width` long (a multiple of 64), into width * kLanes *
// kPackedCodeBytes bytes at most, for scores_fn of the same instruction set: what lies there is
// known to these two kernels only.
using pack_queries_fn = void(const int8_t* rows, int64_t width, uint8_t* packed);

// scores[j][lane] = score_zero(groups) + sum over 4 * groups channels of keys[j][c] *
// queries[lane][c], exact. Key rows are zero from 4 * groups to the next multiple of 64.
// start[j] = score_zero(groups) - 128 * sum of the codes of key j: where sums begin that take the
// queries' codes plus 128, as instruction sets do that multiply signed by unsigned numbers.
using scores_fn = void(const int8_t* keys, int64_t key_stride, int64_t groups,
                       const uint8_t* packed, const int32_t* start, int key_count, int vectors,
                       int32_t* scores);

// Exporters mask with the lowest finite number as often as with -inf: a bias at or below
// kLowestBias masks a key like -inf does. Times log2(e), one above kGreatestBias would overflow.
inline constexpr float kLowestBias = -0x1p20f;
inline constexpr float kGreatestBias = 0x1p126f;

// What the biases of a block hold.
struct BiasSummary {
  bool any_seen;    // one above kLowestBias, or NaN
  bool any_masked;  // one at or below kLowestBias
  bool any_bias;    // one that is seen and not 0
};

// tile[j][lane] = rows[lane][j] for j < count: -inf where masked, at most kGreatestBias where
// finite; 0 for j from count to 64. Rows are floats that may be unaligned, one for each of the 16 *
// vectors lanes.
using read_bias_fn = BiasSummary(const void* const* rows, int vectors, int count, float* tile);

// t = float(score - score_zero) * query_scale * key_scale; tile += cap * tanh(t * inverse), except
// that -inf stays. With scales of queries that are 0, softmax then adds the capped scores as
// biases. tanh within 2.5e-7 relatively, from the exp2 of this library.
using cap_scores_fn = void(const CapBlock& block);

// t = float(score - score_zero) * query_scale; u = fma(t, key_scale, value_log2);
// with bias u = fma(bias, log2(e), u); masked entries are then replaced by -inf.
// m = max of u; y = weight_exp2(u - m), 0 below 2^-126; weight = low byte of fma(y, 255, 2^23);
// block_sum = BlockSum of y * value_inverse; M' = max(M, m);
// keep = exp2(M - M'), gain = exp2(m - M'); sum = fma(sum, keep, gain * block_sum).
// Where M' is -inf both exponents are taken against 0 instead.
using softmax_fn = void(const SoftmaxBlock& block);

// output[c][lane] = fma(gain[lane], float(p), output[c][lane] * keep[lane]), where p is the exact
// sum over keys of values[c][key] * weights[key / 4][lane][key % 4]. values has rows of 64 codes;
// channels is a multiple of 16; weights beyond key_count (a multiple of 16) are zero.
using accumulate_fn = void(const int8_t* values, int64_t channels, const uint8_t* weights,
                           int key_count, const float* keep, const float* gain, int vectors,
                           float* output);

// scores[j][lane] = sum over channels of keys[j][c] * queries[c][lane], by fma in this order.
using float_scores_fn = void(const float* keys, int64_t channels, const float* queries,
                             int key_count, int vectors, float* scores);

// u = score * query_scale; with a cap u = cap * tanh(u * inverse); u += spoil; with bias
// u = fma(bias, log2(e), u); masked entries are then replaced by -inf. m = max of u, M' = max(M,
// m); weight = exp2(u - M'), keep = exp2(M - M'); sum = fma(sum, keep, BlockSum of the
// weights). Where M' is -inf both exponents are taken against 0 instead.
using float_softmax_fn = void(const FloatBlock& block);

// output[c][lane] = fma(output[c][lane], keep[lane], p), where p is the sum over keys of
// values[key][c] * weights[key][lane], by fma in this order. channels is a multiple of 16.
using float_accumulate_fn = void(const float* values, int64_t channels, const float* weights,
                                 int key_count, const float* keep, int vectors, float* output);

// Where only a few queries read a block of keys, lanes are keys or channels instead: each row of K
// and V is then read once, as it lies in memory. These kernels compute the same bits as those with
// a query in each lane. They may ask the memory for the 64 rows after those they were given, which
// need not exist.
inline constexpr int kMostFew = 8;

// scores[q][j] = sum over c < width of keys[j][c] * queries[q][c], exact. scores has rows of 64;
// width is a multiple of 64, rows of queries are `width` long, key_count is a multiple of 16.
using few_scores_fn = void(const int8_t* keys, int64_t key_stride, int64_t width,
                           const int8_t* queries, int query_count, int key_count, int32_t* scores);

// One block of keys against a few queries. Scores are products of signed codes: no correction.
struct FewBlock {
  int keys;                    // a multiple of 16
  int queries;                 // at most kMostFew
  const int32_t* scores;       // [queries][64]
  const float* query_scale;    // [queries], as in SoftmaxBlock, as are the following
  const float* key_scale;      // [keys]
  const float* value_log2;     // [keys]
  const float* value_inverse;  // [keys]
  const int32_t* limits;       // null, or [queries]
  const float* bias;           // null, or [queries][64]
  uint8_t* weights;            // [queries][64] out, zero beyond `keys`
  float* running_max;          // [queries], as are the following
  float* running_sum;
  float* keep;
  float* gain;
};

// As softmax_fn, for each query of the block.
using few_softmax_fn = void(const FewBlock& block);

// output[q][c] = fma(gain[q], float(p), output[q][c] * keep[q]), where p is the exact sum over keys
// of values[key][c] * weights[q][key]. channels, the length of the rows of output, is a multiple of
// 64; all 64 rows of values can be read, and weights are zero where there is no key.
using few_accumulate_fn = void(const int8_t* values, int64_t value_stride, int64_t channels,
                               const uint8_t* weights, int query_count, const float* keep,
                               const float* gain, float* output);

// scores[q][j] = sum over channels of keys[j][c] * queries[q][c], by fma in this order, as
// float_scores_fn. Rows of keys and of queries are `channels` long, those of scores 64.
using few_float_scores_fn = void(const float* keys, int64_t channels, const float* queries,
                                 int query_count, int key_count, float* scores);

// A block in float32 against a few queries; see FloatBlock.
struct FewFloatBlock {
  int keys;
  int queries;
  float* scores;             // [queries][64] in: products; out: weights
  const float* query_scale;  // [queries], as in FloatBlock
  const float* spoil;        // [keys]
  const int32_t* limits;     // null, or [queries]
  const float* bias;         // null, or [queries][64]
  float* running_max;        // [queries], as are the following
  float* running_sum;
  float* keep;
};

// As float_softmax_fn without a cap, for each query of the block.
using few_float_softmax_fn = void(const FewFloatBlock& block);

// output[q][c] = fma(output[q][c], keep[q], p), where p is the sum over keys of values[key][c] *
// weights[q][key], by fma in this order. channels, the length of rows, is a multiple of 16.
using few_float_accumulate_fn = void(const float* values, int64_t channels, const float* weights,
                                     int query_count, int key_count, const float* keep,
                                     float* output);

// Joins the keys of a chunk to those before it: M' = max(M, m); keep = exp2(M - M'), gain =
// exp2(m - M'); sum = fma(sum, keep, gain * part_sum). Where M' is -inf both exponents are taken
// against 0 instead.
struct JoinBlock {
  int vectors;            // of 16 entries, one per query
  const float* part_max;  // m, and the sum of the chunk
  const float* part_sum;
  float* running_max;  // in and out
  float* running_sum;
  float* keep;  // out
  float* gain;
};
using join_states_fn = void(const JoinBlock& block);

// total[c][lane] = fma(gain[lane], part[c][lane], total[c][lane] * keep[lane]), rows of kLanes.
using join_lanes_fn = void(const float* part, int64_t channels, const float* keep,
                           const float* gain, int vectors, float* total);

// total[q][c] = fma(gain[q], part[q][c], total[q][c] * keep[q]); channels is a multiple of 16.
using join_rows_fn = void(const float* part, int64_t channels, int query_count, const float* keep,
                          const float* gain, float* total);

// What softmax needs of the scales of values: log2[j] is log2 of scale[j] (see
// kernels/log2.h), inverse[j] = 1 / scale[j]. A scale of 0 counts as kScaleOfZeroValue; one that is
// not a number, or below 0, gives NaN and 1. count is a multiple of 16; scale may be unaligned.
using value_scales_fn = void(const void* scale, int count, float* log2, float* inverse);

// rows[lane][c] = output[c][lane] * factor[lane] + 0, so that no zero is negative.
using finish_rows_fn = void(const float* output, int64_t channels, const float* factor, int vectors,
                            float* rows);

// Rows of `channels`, a multiple of 16: one that holds a NaN or an infinity becomes zeros, and its
// spoil NaN; that of others is 0.
using spoil_rows_fn = void(float* rows, int64_t channels, int count, float* spoil);

// target[i] = half(row[i]) or bfloat16(row[i]), round to nearest even. target may be unaligned.
using store_half_row_fn = void(const float* row, int64_t count, void* target);
using store_bfloat_row_fn = void(const float* row, int64_t count, void* target);

// Called by each worker before its first and after its last kernel: state of the processor.
using begin_work_fn = void();
using end_work_fn = void();

inline constexpr float kSmallestScale = 0x1p-100f;

// A value row of zeros may have any scale, and it must be a small one: scales of values are part of
// the weights, so a large one would take the steps of all other weights of its block.
inline constexpr float kScaleOfZeroValue = 0x1p-60f;

#define QFA_FOR_EACH_KERNEL_KIND(X) \
  X(load_float_row)                 \
  X(load_half_row)                  \
  X(load_bfloat_row)                \
  X(rotate_row)                     \
  X(quantize_row)                   \
  X(transpose_codes)                \
  X(pack_queries)                   \
  X(scores)                         \
  X(read_bias)                      \
  X(cap_scores)                     \
  X(softmax)                        \
  X(accumulate)                     \
  X(float_scores)                   \
  X(float_softmax)                  \
  X(float_accumulate)               \
  X(few_scores)                     \
  X(few_softmax)                    \
  X(few_accumulate)                 \
  X(few_float_scores)               \
  X(few_float_softmax)              \
  X(few_float_accumulate)           \
  X(value_scales)                   \
  X(join_states)                    \
  X(join_lanes)                     \
  X(join_rows)                      \
  X(pack_bfloats)                   \
  X(transpose_bfloats)              \
  X(bfloat_scores)                  \
  X(bfloat_softmax)                 \
  X(bfloat_accumulate)              \
  X(load_e4m3_row)                  \
  X(load_e5m2_row)                  \
  X(quantize_e4m3_row)              \
  X(quantize_e5m2_row)              \
  X(quantize_int4_row)              \
  X(load_int4_row)                  \
  X(quantize_int4_keys)             \
  X(load_int4_keys)                 \
  X(few_int4_scores)                \
  X(few_int4_accumulate)            \
  X(finish_rows)                    \
  X(spoil_rows)                     \
  X(store_half_row)                 \
  X(store_bfloat_row)               \
  X(begin_work)                     \
  X(end_work)

// One kernel of each kind: what a run of the operator uses.
struct Kernels {
#define QFA_MEMBER(kind) kind##_fn* kind;
  QFA_FOR_EACH_KERNEL_KIND(QFA_MEMBER)
#undef QFA_MEMBER
};

#define QFA_KERNEL(kind, isa) extern kind##_fn kind##_##isa;
#include "kernels/kernels.inc"
#undef QFA_KERNEL

// The best kernel of each kind that `isa` may use. Does not ask whether this processor has it.
Kernels kernels_for(qfa_isa isa);

}  // namespace qfa

#endif  // QFA_KERNELS_KERNELS_H_
