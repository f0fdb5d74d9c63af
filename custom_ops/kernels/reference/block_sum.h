// How the weights of a block become codes and a sum: see BlockSum in kernels.h.
#ifndef QFA_KERNELS_REFERENCE_BLOCK_SUM_H_
#define QFA_KERNELS_REFERENCE_BLOCK_SUM_H_

#include <math.h>
#include <stdint.h>

#include <bit>

namespace qfa {

inline float block_sum(const float (&part)[16]) {
  float column[4];
  for (int q = 0; q < 4; ++q) {
    const float* four = part + 4 * q;
    column[q] = (four[0] + four[1]) + (four[2] + four[3]);
  }
  return (column[0] + column[1]) + (column[2] + column[3]);
}

inline uint8_t weight_code(float y) {
  if (y != y) return 0;  // the row is NaN whatever the code
  return static_cast<uint8_t>(std::bit_cast<uint32_t>(fmaf(y, 255.0f, 0x1p23f)));
}

}  // namespace qfa

#endif  // QFA_KERNELS_REFERENCE_BLOCK_SUM_H_
