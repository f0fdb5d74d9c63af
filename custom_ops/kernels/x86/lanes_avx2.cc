// Kernels of kernels/lanes/ with AVX2.
#include "kernels/lanes/cap_scores.h"

namespace qfa {

void cap_scores_avx2(const CapBlock& block) { cap_block(block); }

}  // namespace qfa
