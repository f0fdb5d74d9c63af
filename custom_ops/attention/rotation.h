// Which Hadamard matrix rotates the rows of Q and K.
#ifndef QFA_ATTENTION_ROTATION_H_
#define QFA_ATTENTION_ROTATION_H_

#include <stdint.h>

namespace qfa {

inline constexpr int64_t kSmallestHadamard = 8;

// The largest power of two that divides D: rows are rotated in runs of this length.
constexpr int64_t hadamard_block(int64_t channels) { return channels & -channels; }

}  // namespace qfa

#endif  // QFA_ATTENTION_ROTATION_H_
