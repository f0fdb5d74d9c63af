// Kernels of kernels/lanes/ in plain C++.
#include "kernels/lanes/cap_scores.h"

namespace qfa {

void cap_scores_scalar(const CapBlock& block) { cap_block(block); }

}  // namespace qfa
