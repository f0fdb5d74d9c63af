// Kernels that attend in bfloat16: products of 8-bit floats, which bfloat16 holds exactly, and sums
// in float32. Included by kernels.h, whose rules hold here, with one exception: instruction sets
// with products of bfloat16 add them in an order of their own and take denormals for 0, so that
// sums differ in their last bits.
#ifndef QFA_KERNELS_BFLOATS_H_
#define QFA_KERNELS_BFLOATS_H_

#include <stdint.h>

namespace qfa {

struct FloatBlock;

// Rows of bfloats are padded with zeros to a multiple of this many.
inline constexpr int64_t kBfloatPad = 32;

// Two consecutive channels (or keys) of one lane form one 32-bit pair of a packed operand:
// packed[pair][lane][2].

// packed[c / 2][lane][c % 2] = rows[lane][c] for kLanes rows, each `width` long (a multiple of
// kBfloatPad).
using pack_bfloats_fn = void(const uint16_t* rows, int64_t width, uint16_t* packed);

// columns[c][j] = rows[j][c] for 64 rows and `channels` (a multiple of 16) columns.
using transpose_bfloats_fn = void(const uint16_t* rows, int64_t row_stride, int64_t channels,
                                  uint16_t* columns);

// scores[j][lane] = sum over `width` channels (a multiple of kBfloatPad) of keys[j][c] *
// packed[c / 2][lane][c % 2]; without products of bfloat16 by fma in this order. key_count is a
// multiple of 16.
using bfloat_scores_fn = void(const uint16_t* keys, int64_t width, const uint16_t* packed,
                              int key_count, int vectors, float* scores);

// scores[j][lane] *= key_scale[j]; then float_softmax; then weights[j / 2][lane][j % 2] =
// bfloat16(weight * value_scale[j]), 0 from the last key to the 64th. The scales are `keys` long;
// those of values must be numbers, and a value that is not finite is 0 and has its spoil.
using bfloat_softmax_fn = void(const FloatBlock& block, const float* key_scale,
                               const float* value_scale, uint16_t* weights);

// output[c][lane] = fma(output[c][lane], keep[lane], p), where p is the sum over 64 keys of
// values[c][key] * weights[key / 2][lane][key % 2]; without products of bfloat16 by fma in this
// order. values has rows of 64; channels is a multiple of 16.
using bfloat_accumulate_fn = void(const uint16_t* values, int64_t channels, const uint16_t* weights,
                                  const float* keep, int vectors, float* output);

}  // namespace qfa

#endif  // QFA_KERNELS_BFLOATS_H_
