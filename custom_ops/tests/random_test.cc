// Random requests: shapes, types and options are drawn together, as no list of cases would pair
// them. QFA_TEST_SEED starts elsewhere, QFA_TEST_COUNT sets how many requests are made.
#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "problem.h"

namespace qfa::test {
namespace {

int64_t from_environment(const char* name, int64_t otherwise) {
  const char* text = getenv(name);
  return text == nullptr ? otherwise : atoll(text);
}

// Small numbers mostly, and sometimes one at or next to a multiple of a block.
int64_t draw_extent(Random& random, uint32_t most) {
  if (random.below(3) != 0) return random.below(most < 20 ? most + 1 : 20);
  const uint32_t block = 16u << random.below(3);
  const int64_t extent =
      int64_t{block} * (1 + random.below(most / block + 1)) + random.below(3) - 1;
  return extent > most ? most : extent;
}

Problem draw(uint64_t seed) {
  Random random(seed);
  for (int i = 0; i < 8; ++i) random.bits();
  Extents e;
  e.batch = 1 + random.below(2);
  e.kv_heads = 1 + random.below(3);
  e.heads = e.kv_heads * (1 + random.below(4));
  e.queries = draw_extent(random, 80);
  e.keys = draw_extent(random, 200);
  e.channels = 1 + draw_extent(random, 255);
  e.value_channels = random.below(2) != 0 ? e.channels : 1 + draw_extent(random, 255);
  if (random.below(3) == 0) e.past = random.below(static_cast<uint32_t>(e.keys + 1));
  constexpr qfa_dtype kTypes[] = {QFA_FLOAT32, QFA_FLOAT32, QFA_FLOAT16, QFA_BFLOAT16};
  Problem p = Problem::random(e, seed, kTypes[random.below(4)]);
  p.causal = random.below(2) != 0;
  p.causal_offset = static_cast<int64_t>(random.below(120)) - 30;
  p.queries_at_end = random.below(3) == 0;
  if (random.below(4) == 0) p.left_window = draw_extent(random, 150);
  if (random.below(4) == 0) p.right_window = draw_extent(random, 150);
  if (random.below(4) == 0) {
    p.kv_length.resize(random.below(2) != 0 ? 1 : static_cast<size_t>(e.batch));
    for (int64_t& length : p.kv_length) length = static_cast<int64_t>(random.below(240)) - 20;
  }
  if (random.below(4) == 0) {
    p.sink.resize(random.below(2) != 0 ? 1 : static_cast<size_t>(e.heads));
    for (float& s : p.sink) s = random.below(5) == 0 ? -INFINITY : 4.0f * random.normal();
  }
  if (random.below(4) == 0) p.softcap = ldexpf(1.0f, static_cast<int>(random.below(8)) - 2);
  if (random.below(3) == 0) p.compute = QFA_COMPUTE_FLOAT;
  p.rotate = (e.channels & -e.channels) >= 8 && random.below(3) == 0;
  const size_t square = static_cast<size_t>(e.batch * e.heads * e.queries * e.keys);
  if (random.below(3) == 0) {
    p.mask.resize(square);
    const uint32_t percent = random.below(101);
    for (uint8_t& m : p.mask) m = random.below(100) < percent;
  }
  if (random.below(3) == 0) {
    p.bias.resize(square);
    const uint32_t percent = random.below(101);
    const float masking = random.below(2) != 0 ? -INFINITY : -3.4028235e38f;
    for (float& b : p.bias) b = random.below(100) < percent ? random.normal() : masking;
    if (random.below(2) != 0) p.round_bias_to_half();
  }
  if (p.sink.empty() && p.softcap == 0.0f && random.below(4) == 0) {
    p.k_mean.resize(static_cast<size_t>(e.kv_heads * e.channels));
    for (float& m : p.k_mean) m = random.normal() * 0.1f;
  }
  // The rotation makes rows larger by the square root of its length.
  const float step =
      5.0f / 127.0f * (p.rotate ? sqrtf(static_cast<float>(e.channels & -e.channels)) : 1.0f);
  if (p.compute == QFA_COMPUTE_FLOAT) return p;
  if (random.below(4) == 0) p.q_scale.assign(1, step);
  if (random.below(4) == 0) {
    p.k_scale.assign(static_cast<size_t>(e.kv_heads), step);
  }
  if (random.below(4) == 0) p.v_scale.assign(1, 5.0f / 127.0f);
  return p;
}

QFA_TEST(random_requests) {
  const uint64_t start = static_cast<uint64_t>(from_environment("QFA_TEST_SEED", 1));
  const uint64_t count = static_cast<uint64_t>(from_environment("QFA_TEST_COUNT", 150));
  for (uint64_t seed = start; seed < start + count; ++seed) {
    const Problem p = draw(seed);
    const std::vector<float> scalar = p.run(QFA_ISA_SCALAR);
    const double error = normalized_error(scalar, p.oracle());
    // Single rows of few channels are noisier than tensors, and static scales clip.
    // In float what is rounded to a narrow type is the output alone.
    const bool narrow = p.dtype != QFA_FLOAT32;
    const double bound = p.compute == QFA_COMPUTE_INT8 ? 2.5e-3 : (narrow ? 1e-5 : 1e-11);
    CHECK_THAT(error <= bound, "seed %llu error %g", static_cast<unsigned long long>(seed), error);
    for (const qfa_isa isa : testable_isas()) {
      CHECK_THAT(same_bits(p.run(isa), scalar), "seed %llu %s",
                 static_cast<unsigned long long>(seed), qfa_isa_name(isa));
    }
  }
}

}  // namespace
}  // namespace qfa::test

QFA_TEST_MAIN
