// The operator against attention in double precision, and the same bits on every instruction set.
#include <math.h>

#include "check.h"
#include "problem.h"

namespace qfa::test {
namespace {

constexpr double kBound = 5e-4;

// Accuracy of the scalar kernels, and bit equality of all others with them.
void check_problem(const Problem& p, double bound = kBound) {
  const std::vector<float> scalar = p.run(QFA_ISA_SCALAR);
  const double error = normalized_error(scalar, p.oracle());
  CHECK_THAT(error <= bound, "error %g: B %d H %d/%d S %d T %d D %d Dv %d", error,
             static_cast<int>(p.e.batch), static_cast<int>(p.e.heads),
             static_cast<int>(p.e.kv_heads), static_cast<int>(p.e.queries),
             static_cast<int>(p.e.keys), static_cast<int>(p.e.channels),
             static_cast<int>(p.e.value_channels));
  for (const qfa_isa isa : usable_isas()) {
    CHECK_THAT(same_bits(p.run(isa), scalar), "%s differs: S %d T %d D %d Dv %d", qfa_isa_name(isa),
               static_cast<int>(p.e.queries), static_cast<int>(p.e.keys),
               static_cast<int>(p.e.channels), static_cast<int>(p.e.value_channels));
  }
}

QFA_TEST(lengths_of_queries_and_keys) {
  uint64_t seed = 1;
  for (const int64_t queries : {0, 1, 2, 15, 16, 17, 63, 64, 65, 239}) {
    for (const int64_t keys : {0, 1, 2, 15, 16, 17, 63, 64, 65, 239}) {
      check_problem(Problem::random({1, 1, 1, queries, keys, 16, 24}, seed++));
    }
  }
}

QFA_TEST(channels) {
  uint64_t seed = 1000;
  for (const int64_t channels : {1, 3, 8, 13, 40, 64, 65, 80, 96, 128, 192, 256}) {
    check_problem(Problem::random({1, 2, 1, 21, 70, channels, channels}, seed++));
    check_problem(Problem::random({1, 1, 1, 17, 65, channels, 33}, seed++));
    check_problem(Problem::random({1, 1, 1, 17, 65, 33, channels}, seed++));
  }
}

}  // namespace
}  // namespace qfa::test

QFA_TEST_MAIN
