// Kernels that read and write the formats of a quantized cache (see qfa_codes in qfa.h), and those
// that multiply its 4-bit codes. Included by kernels.h, whose rules hold here, too.
#ifndef QFA_KERNELS_FORMATS_H_
#define QFA_KERNELS_FORMATS_H_

#include <stdint.h>

#include "qfa/qfa.h"

namespace qfa {

// Floats of 8 bits. e4m3 is e4m3fn: it has no infinity, 0x7f and 0xff are NaN; e5m2 is like IEEE.

// The greatest finite numbers.
inline constexpr float kGreatestE4m3 = 448.0f;
inline constexpr float kGreatestE5m2 = 57344.0f;

// row[i] = float(codes[i]) * scale. codes may be unaligned.
using load_e4m3_row_fn = void(const void* codes, float scale, int64_t count, float* row);
using load_e5m2_row_fn = void(const void* codes, float scale, int64_t count, float* row);

// Codes of one row of floats, which may be unaligned; returns their scale, absmax / greatest, at
// least kSmallestScale, 0 for a row of zeros. Codes are x * (greatest / absmax), rounded to nearest
// even and at most the greatest number. Of a row with a NaN or an infinity the scale is NaN and the
// codes are 0.
using quantize_e4m3_row_fn = float(const void* row, int64_t count, uint8_t* codes);
using quantize_e5m2_row_fn = float(const void* row, int64_t count, uint8_t* codes);

// Codes of 4 bits: 0..15, the even channel of two in the low half of their byte, 0 above the last
// channel of an odd number. A number is scale * (code - zero_point), with scales in half precision
// and zero points in int8, shared by a group of channels of one value, or by 32 keys of one
// channel. Arrays of codes and scales may be unaligned.
//
// A group with numbers from low to high, of values the number 0 always among them (scales of values
// become part of the weights, where a number many steps from 0 would cost precision), in float32,
// each division and rounding as it stands:
//   s = (high - low) / 15, rounded up to half precision, at least 2^-24;
//   z = rint(-low / s).
// If z is outside -128..127 the group is narrow for its distance from 0. Then the middle
// m = low + (high - low) * 0.5 is made a multiple of s, rounded to nearest half precision:
//   with |m| < 1 and (high - low) * 135 <= |m|: s = |m|, at least 2^-24, z = m < 0 ? 1 : 0;
//   else s = |m| / 135, z = -128, or where m < 0 s = |m| / 119, z = 127.
// code = clamp(rint(x / s) + z, 0, 15).
// Numbers come back within (1/2 + 2^-15) s + 2^-17, those of a group of keys that is constant
// within 2^-11 of their size + 2^-24, of values within 2^-10 + 2^-20. A group with a NaN or an
// infinity, and one whose s would be beyond half precision, has scale NaN and codes and zero point
// 0.
inline constexpr int kInt4KeyGroup = QFA_INT4_KEY_GROUP;

// One value: `group`, a multiple of 32, channels share a scale; the last group may be shorter.
using quantize_int4_row_fn = void(const float* row, int64_t count, int64_t group, uint8_t* codes,
                                  void* scale, int8_t* zero_point);
using load_int4_row_fn = void(const uint8_t* codes, const void* scale, const int8_t* zero_point,
                              int64_t group, int64_t count, float* row);

// A group of 32 keys, each of `channels` numbers; strides count elements.
using quantize_int4_keys_fn = void(const float* keys, int64_t key_stride, int64_t channels,
                                   uint8_t* codes, int64_t code_stride, void* scale,
                                   int8_t* zero_point);
// `key_count` keys of one group.
using load_int4_keys_fn = void(const uint8_t* codes, int64_t code_stride, const void* scale,
                               const int8_t* zero_point, int64_t channels, int key_count,
                               float* keys, int64_t key_stride);

// Attention of at most kMostFew queries to 4-bit codes: few_int4_scores for each group of keys,
// few_float_softmax with a spoil of zeros, few_int4_accumulate. Scores of keys that are not coded
// yet come from few_float_scores: both are plain products of query and key.

// scores[q][j] of one group of 32 keys, rows of 64. The scales of the keys go into the query:
// r[c] = queries[q][c] * scale[c] is coded as quantize_row does without a static scale, giving
// r_scale and r_code; scores[q][j] = float(sum over c of r_code[c] * (codes[j][c] -
// zero_point[c])) * r_scale, the sum being exact. Rows of queries are `channels` long, at most
// 1024.
using few_int4_scores_fn = void(const uint8_t* codes, int64_t code_stride, const void* scale,
                                const int8_t* zero_point, int64_t channels, const float* queries,
                                int query_count, float* scores);

// Values of up to 64 keys, one row each; strides count elements.
struct Int4Values {
  const uint8_t* codes;
  int64_t code_stride;
  const void* scale;  // halfs
  const int8_t* zero_point;
  int64_t scale_stride;  // of zero_point, too
  int64_t group;         // channels that share a scale, a multiple of 32
  int64_t channels;
};

// output[q][c] += the weighted values of `key_count` keys, in 1..64. weights[q][j], rows of 64, are
// at least 0, or NaN. For each group g of channels the scales of the values go into the weights:
// w[j] = weights[q][j] * scale[j][g], and 0 where the weight is 0, whatever the scale; m = max of
// w; step = m / 255 and inverse = 255 / m, but where the step is below kSmallestScale step =
// kSmallestScale and inverse = 1 / kSmallestScale; code[j] = low byte of fma(w[j], inverse, 2^23).
// output[q][c] = fma(step, float(p), output[q][c] * keep[q]), where p is the exact sum over keys of
// code[j] * (codes[j][c] - zero_point[j][g]). Where a w is NaN, infinite, or below 0 (as no scale
// is), the step is NaN. output has rows of `output_stride`; it and the codes are touched only where
// there are channels.
using few_int4_accumulate_fn = void(const Int4Values& values, const float* weights, int query_count,
                                    int key_count, const float* keep, float* output,
                                    int64_t output_stride);

}  // namespace qfa

#endif  // QFA_KERNELS_FORMATS_H_
