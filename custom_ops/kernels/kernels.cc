#include "kernels/kernels.h"

#include "kernels/arch.h"

namespace qfa {

Kernels kernels_for(qfa_isa isa) {
  Kernels chosen = {};
  // A set stands below those that stand on it, so the last line that fits wins.
#define QFA_KERNEL(kind, set) \
  if (includes(isa, sets::set)) chosen.kind = kind##_##set;
#include "kernels/kernels.inc"
#undef QFA_KERNEL
  return chosen;
}

}  // namespace qfa
