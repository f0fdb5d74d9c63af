// Coefficients of the two approximations of 2^x for x <= 0. Both hold the constant term at 1, so
// that the largest weight of a block is exactly 1 and a kept maximum rescales by exactly 1.
#ifndef QFA_KERNELS_EXP2_H_
#define QFA_KERNELS_EXP2_H_

namespace qfa {

// exp2, for weights in float32, for tanh and wherever blocks join: x = n + f with n the nearest
// whole number (half to even), 2^f as a polynomial of degree 5, minimax in relative error (9.4e-8)
// over -1/2..1/2. Every result is within 1.95 units of the last place of 2^x, and where x rises it
// falls by one such unit at most; tests/exp2_test.cc tries every float.
inline constexpr float kExp2C1 = 0x1.62e42ap-1f;
inline constexpr float kExp2C2 = 0x1.ebf9c2p-3f;
inline constexpr float kExp2C3 = 0x1.c6b6d8p-5f;
inline constexpr float kExp2C4 = 0x1.3ce8acp-7f;
inline constexpr float kExp2C5 = 0x1.5bda54p-10f;

// weight_exp2, for weights that become codes of 8 bits (softmax and few_softmax, but not their keep
// and gain): x = n + f with n = x truncated toward zero, so that f in (-1, 0] is exact, and 2^f as
// fma(fma(fma(C3, f, C2), f, C1), f, 1): minimax in relative error (1.04e-4) over that range with
// the value at -1 held at 1/2. That is at most 0.027 of the step of a code; the rounding of codes
// is up to 0.5. As pieces meet, results never fall by more than one unit of the last place where x
// rises, and none above the floor is denormal. tests/exp2_test.cc tries every float of this one,
// too.
inline constexpr float kWeightExp2C1 = 0x1.62020cp-1f;
inline constexpr float kWeightExp2C2 = 0x1.d82dacp-3f;
inline constexpr float kWeightExp2C3 = 0x1.4095f8p-5f;

// Below this exponent the result of both is zero, so that no weight is ever denormal.
inline constexpr float kExp2Floor = -126.0f;

inline constexpr float kLog2E = 0x1.715476p+0f;

}  // namespace qfa

#endif  // QFA_KERNELS_EXP2_H_
