// Arithmetic on a register of lanes.
//
// The files of kernels/lanes/ are written once and included by one file per instruction set, which
// is compiled with that set's flags and says what a Vector is: a register of kWidth floats with the
// operators + - * /, load, store, spread, fma, and
//   Mask                    one flag for each lane
//   less(a, b), equal(a, b) flags; false where one is NaN
//   select(mask, a, b)      a where the flag is set, else b
//   round(x)                to the nearest whole number, half to even; anything at or beyond 2^22
//   times_power(x, n)       x * 2^n for x in 1/2..2 and n a whole number in -126..0; NaN for NaN
//   magnitude(x), with_sign_of(x, y)
//   from_ints(ints, add)    float(ints[lane] + add)
//   above(ints, j)          flags: ints[lane] > j
// Everything is in an anonymous namespace and calls no library, so that no copy for one set is ever
// linked into another.
#ifndef QFA_KERNELS_LANES_LANES_H_
#define QFA_KERNELS_LANES_LANES_H_

#include <stdint.h>

#include "kernels/exp2.h"

#define QFA_INLINE inline __attribute__((always_inline))

namespace qfa {
namespace {

// 2^x for x <= 0, as exp2_of_nonpositive everywhere: 0 below kExp2Floor, NaN for NaN.
template <class Vector>
QFA_INLINE Vector exp2_lanes(Vector x) {
  const Vector whole = Vector::round(x);
  const Vector f = x - whole;
  Vector p = Vector::fma(Vector::spread(kExp2C5), f, Vector::spread(kExp2C4));
  p = Vector::fma(p, f, Vector::spread(kExp2C3));
  p = Vector::fma(p, f, Vector::spread(kExp2C2));
  p = Vector::fma(p, f, Vector::spread(kExp2C1));
  p = Vector::fma(p, f, Vector::spread(1.0f));
  // What lies below the floor has no power of two, and nothing there is kept.
  return Vector::select(Vector::less(x, Vector::spread(kExp2Floor)), Vector::spread(0.0f),
                        Vector::times_power(p, whole));
}

// tanh within 2.5e-7 relatively; NaN for NaN.
template <class Vector>
QFA_INLINE Vector tanh_lanes(Vector x) {
  // (tanh(x) / x - 1) / x^2 up to kSmall: minimax in relative error of tanh, 2.8e-9.
  constexpr float kSmall = 0.6f;
  const Vector z = x * x, one = Vector::spread(1.0f);
  Vector p = Vector::fma(Vector::spread(-0x1.82584cp-8f), z, Vector::spread(0x1.54b89ep-6f));
  p = Vector::fma(p, z, Vector::spread(-0x1.b898dep-5f));
  p = Vector::fma(p, z, Vector::spread(0x1.1109aep-3f));
  p = Vector::fma(p, z, Vector::spread(-0x1.55553ep-2f));
  const Vector small = Vector::fma(x * z, p, x);
  const Vector magnitude = Vector::magnitude(x);
  const Vector e = exp2_lanes(magnitude * Vector::spread(-2.0f * kLog2E));
  const Vector large = Vector::with_sign_of((one - e) / (one + e), x);
  return Vector::select(Vector::less(magnitude, Vector::spread(kSmall)), small, large);
}

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_LANES_LANES_H_
