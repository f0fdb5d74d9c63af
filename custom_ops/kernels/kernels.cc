#include "kernels/kernels.h"

namespace qfa {

Kernels kernels_for(qfa_isa isa) {
  Kernels chosen = {};
  constexpr qfa_isa scalar = QFA_ISA_SCALAR;
  [[maybe_unused]] constexpr qfa_isa avx2 = QFA_ISA_AVX2;
  [[maybe_unused]] constexpr qfa_isa avx512vnni = QFA_ISA_AVX512VNNI;
  [[maybe_unused]] constexpr qfa_isa amxint8 = QFA_ISA_AMXINT8;
  // The lines rise, so the last one that fits wins.
#define QFA_KERNEL(kind, set) \
  if (set <= isa) chosen.kind = kind##_##set;
#include "kernels/kernels.inc"
#undef QFA_KERNEL
  return chosen;
}

}  // namespace qfa
