// Kernels of kernels/lanes/ with AVX-512.
#include "kernels/lanes/cap_scores.h"

namespace qfa {

void cap_scores_avx512vnni(const CapBlock& block) { cap_block(block); }

}  // namespace qfa
