// Coefficients of 2^f for f in [-1/2, 1/2]: minimax in relative error (9.4e-8) with the constant
// term held at 1, so that the largest weight of a block is exactly 1 and a kept maximum rescales by
// exactly 1. Every result is within 1.95 units of the last place of 2^x, and where x rises it falls
// by one such unit at most; tests/exp2_test.cc tries every float.
#ifndef QFA_KERNELS_EXP2_H_
#define QFA_KERNELS_EXP2_H_

namespace qfa {

inline constexpr float kExp2C1 = 0x1.62e42ap-1f;
inline constexpr float kExp2C2 = 0x1.ebf9c2p-3f;
inline constexpr float kExp2C3 = 0x1.c6b6d8p-5f;
inline constexpr float kExp2C4 = 0x1.3ce8acp-7f;
inline constexpr float kExp2C5 = 0x1.5bda54p-10f;

// Below this exponent the result is zero, so that no weight is ever denormal.
inline constexpr float kExp2Floor = -126.0f;

inline constexpr float kLog2E = 0x1.715476p+0f;

}  // namespace qfa

#endif  // QFA_KERNELS_EXP2_H_
