// What no bound on errors says: which inputs a row of the output may depend on, to the bit.
#include <math.h>
#include <string.h>

#include <utility>

#include "check.h"
#include "problem.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace qfa::test {
namespace {

std::vector<float> row_of(const Problem& p, const std::vector<float>& output, int64_t head,
                          int64_t query) {
  const float* start = output.data() + (head * p.e.queries + query) * p.e.value_channels;
  return std::vector<float>(start, start + p.e.value_channels);
}

bool all_nan(const std::vector<float>& row) {
  for (const float x : row) {
    if (!isnan(x)) return false;
  }
  return true;
}

bool all_zero(const std::vector<float>& row) {
  for (const float x : row) {
    if (x != 0.0f || signbit(x)) return false;
  }
  return true;
}

// Queries of a head: as many as stream through their keys a few at a time, in lanes, and more than
// that (two heads share the keys in most tests).
constexpr int64_t kQueryCounts[] = {3, 12, 40};

constexpr float kPoisons[] = {1e30f, -1e30f, INFINITY, NAN, 1e-42f, 0.0f};

std::vector<std::pair<qfa_isa, int64_t>> sets_and_counts() {
  std::vector<std::pair<qfa_isa, int64_t>> all;
  for (const qfa_isa isa : testable_isas()) {
    for (const int64_t queries : kQueryCounts) all.emplace_back(isa, queries);
  }
  return all;
}

void poison_token(Problem& p, int64_t token, float poison) {
  for (int64_t head = 0; head < p.e.kv_heads; ++head) {
    for (int64_t c = 0; c < p.e.channels; ++c) p.key_row(0, head, token)[c] = poison;
    for (int64_t c = 0; c < p.e.value_channels; ++c) p.value_row(0, head, token)[c] = poison;
  }
}

QFA_TEST(later_keys_do_not_touch_a_causal_row) {
  for (const qfa_isa isa : testable_isas()) {
    for (const int64_t queries : kQueryCounts) {
      for (const float poison : kPoisons) {
        Problem p = Problem::random({1, 2, 1, queries, 100, 16, 16}, 1);
        p.causal = true;
        p.causal_offset = 70 - queries / 2;
        const std::vector<float> clean = p.run(isa);
        for (int64_t token = 70; token < 100; ++token) poison_token(p, token, poison);
        const std::vector<float> poisoned = p.run(isa);
        for (int64_t i = 0; i + p.causal_offset < 70; ++i) {
          CHECK_THAT(same_bits(row_of(p, clean, 1, i), row_of(p, poisoned, 1, i)),
                     "%s row %d of %d poison %g", qfa_isa_name(isa), static_cast<int>(i),
                     static_cast<int>(queries), static_cast<double>(poison));
        }
      }
    }
  }
}

QFA_TEST(masked_keys_do_not_touch_a_row) {
  for (const qfa_isa isa : testable_isas()) {
    for (int trial = 0; trial < 6; ++trial) {
      const bool by_bias = trial % 2 != 0;
      const int64_t queries = kQueryCounts[trial / 2];
      for (const float poison : kPoisons) {
        Problem p = Problem::random({1, 1, 1, queries, 150, 16, 16}, 2);
        Random random(3);
        std::vector<bool> hidden(150);
        for (size_t j = 0; j < 150; ++j) hidden[j] = random.below(3) == 0 || (j >= 64 && j < 128);
        if (by_bias) {
          p.bias.resize(static_cast<size_t>(queries * 150));
          for (float& b : p.bias) b = random.normal();
        } else {
          p.mask.assign(static_cast<size_t>(queries * 150), 1);
        }
        for (size_t i = 0; i < static_cast<size_t>(queries * 150); ++i) {
          if (!hidden[i % 150]) continue;
          (by_bias ? p.bias[i] = -INFINITY : p.mask[i] = 0);
        }
        const std::vector<float> clean = p.run(isa);
        for (size_t j = 0; j < 150; ++j) {
          if (hidden[j]) poison_token(p, static_cast<int64_t>(j), poison);
        }
        CHECK_THAT(same_bits(p.run(isa), clean), "%s poison %g", qfa_isa_name(isa),
                   static_cast<double>(poison));
      }
    }
  }
}

QFA_TEST(a_row_does_not_depend_on_its_neighbours) {
  for (const qfa_isa isa : testable_isas()) {
    for (const int64_t queries : kQueryCounts) {
      Problem p = Problem::random({1, 4, 2, queries, 130, 16, 16}, 4);
      p.causal = true;
      p.causal_offset = 60;
      p.mask.assign(static_cast<size_t>(4 * queries * 130), 1);
      Random random(5);
      for (size_t i = 0; i < p.mask.size(); ++i) p.mask[i] = i % 130 < 64 || random.below(2) == 0;
      const std::vector<float> clean = p.run(isa);
      // Every query but one becomes something else, masks included.
      const int64_t kept = queries / 2;
      for (int64_t head = 0; head < 4; ++head) {
        for (int64_t i = 0; i < queries; ++i) {
          if (head == 2 && i == kept) continue;
          for (int64_t c = 0; c < 16; ++c) p.query_row(0, head, i)[c] = kPoisons[i % 6];
          uint8_t* mask = p.mask.data() + (head * queries + i) * 130;
          for (int64_t j = 0; j < 130; ++j) mask[j] = (i + j) % 3 == 0;
        }
      }
      CHECK_THAT(same_bits(row_of(p, p.run(isa), 2, kept), row_of(p, clean, 2, kept)),
                 "%s %d queries", qfa_isa_name(isa), static_cast<int>(queries));
    }
  }
}

// However many queries are asked at once, and so whichever way their keys are read. 1100 keys are
// more than a chunk.
QFA_TEST(a_row_alone_equals_the_row_among_others) {
  for (const qfa_isa isa : testable_isas()) {
    for (const int64_t keys : {130, 1100}) {
      const Problem p = Problem::random({1, 1, 1, 70, keys, 16, 16}, 6);
      const std::vector<float> together = p.run(isa);
      for (const int64_t i : {0, 31, 32, 58}) {
        for (const int64_t queries : {1, 5, 12}) {
          Problem alone = p;
          alone.e.queries = queries;
          alone.query.assign(p.query.begin() + i * 16, p.query.begin() + (i + queries) * 16);
          CHECK_THAT(same_bits(row_of(alone, alone.run(isa), 0, 0), row_of(p, together, 0, i)),
                     "%s row %d with %d queries of %d keys", qfa_isa_name(isa), static_cast<int>(i),
                     static_cast<int>(queries), static_cast<int>(keys));
        }
      }
    }
  }
}

QFA_TEST(a_query_that_is_not_a_number_stays_alone) {
  for (const qfa_isa isa : testable_isas()) {
    for (const int64_t queries : kQueryCounts) {
      for (const float poison : {NAN, INFINITY}) {
        Problem p = Problem::random({1, 1, 1, queries, 100, 16, 16}, 7);
        const std::vector<float> clean = p.run(isa);
        p.query_row(0, 0, 2)[3] = poison;
        const std::vector<float> output = p.run(isa);
        for (int64_t i = 0; i < queries; ++i) {
          CHECK(i == 2 ? all_nan(row_of(p, output, 0, i))
                       : same_bits(row_of(p, output, 0, i), row_of(p, clean, 0, i)));
        }
      }
    }
  }
}

// In the chunk where the queries stand, in one before it, and in values as in keys.
QFA_TEST(a_key_that_is_not_a_number_reaches_only_rows_that_see_it) {
  for (const qfa_isa isa : testable_isas()) {
    for (const int64_t queries : kQueryCounts) {
      for (const int64_t keys : {100, 1100}) {
        for (const bool in_value : {false, true}) {
          Problem p = Problem::random({1, 1, 1, queries, keys, 16, 16}, 8);
          p.causal = true;
          p.causal_offset = 66 - queries / 2;
          const std::vector<float> clean = p.run(isa);
          (in_value ? p.value_row(0, 0, 66) : p.key_row(0, 0, 66))[1] = NAN;
          const std::vector<float> output = p.run(isa);
          for (int64_t i = 0; i < queries; ++i) {
            CHECK_THAT(i + p.causal_offset >= 66
                           ? all_nan(row_of(p, output, 0, i))
                           : same_bits(row_of(p, output, 0, i), row_of(p, clean, 0, i)),
                       "%s row %d value %d", qfa_isa_name(isa), static_cast<int>(i), in_value);
          }
          // Rows that see all of a later chunk stay NaN there.
          p.causal_offset = keys;
          for (int64_t i = 0; i < queries; ++i) CHECK(all_nan(row_of(p, p.run(isa), 0, i)));
        }
      }
    }
  }
}

// Chunks of which nothing is seen, before, between and behind those of which something is.
QFA_TEST(a_hidden_chunk_does_not_touch_a_row) {
  constexpr int64_t kKeys = 3 * QFA_KEY_CHUNK + 70;
  for (const qfa_isa isa : testable_isas()) {
    for (const int64_t queries : {1, 12, 40}) {
      for (const int64_t seen : {0, 1, 3}) {  // the one chunk that is seen
        Problem p = Problem::random({1, 1, 1, queries, kKeys, 8, 8}, 21);
        const int64_t first = seen * QFA_KEY_CHUNK;
        const int64_t end = first + QFA_KEY_CHUNK < kKeys ? first + QFA_KEY_CHUNK : kKeys;
        p.mask.assign(static_cast<size_t>(queries * kKeys), 0);
        for (int64_t i = 0; i < queries; ++i) {
          // The first row sees nothing at all.
          for (int64_t j = first; j < end && i > 0; ++j) {
            p.mask[static_cast<size_t>(i * kKeys + j)] = 1;
          }
        }
        for (int64_t j = 0; j < kKeys; ++j) {
          if (j < first || j >= end) poison_token(p, j, kPoisons[j % 6]);
        }
        const std::vector<float> output = p.run(isa);
        // The same keys alone are one chunk.
        Problem alone = p;
        alone.e.keys = end - first;
        alone.key.assign(p.key.begin() + first * 8, p.key.begin() + end * 8);
        alone.value.assign(p.value.begin() + first * 8, p.value.begin() + end * 8);
        alone.mask.clear();
        const std::vector<float> expected = alone.run(isa);
        for (int64_t i = 0; i < queries; ++i) {
          CHECK_THAT(i == 0 ? all_zero(row_of(p, output, 0, i))
                            : same_bits(row_of(p, output, 0, i), row_of(p, expected, 0, i)),
                     "%s row %d of %d, chunk %d", qfa_isa_name(isa), static_cast<int>(i),
                     static_cast<int>(queries), static_cast<int>(seen));
        }
      }
    }
  }
}

QFA_TEST(a_row_that_sees_nothing_is_zero) {
  for (const qfa_isa isa : testable_isas()) {
    for (const int64_t queries : kQueryCounts) {
      Problem p = Problem::random({1, 1, 1, queries, 70, 16, 16}, 9);
      for (float& v : p.value) v = NAN;
      p.mask.assign(static_cast<size_t>(queries * 70), 0);
      CHECK(all_zero(p.run(isa)));
      p.mask.clear();
      p.bias.assign(static_cast<size_t>(queries * 70), -INFINITY);
      CHECK(all_zero(p.run(isa)));
      p.bias.clear();
      p.causal = true;
      p.causal_offset = -queries;
      CHECK(all_zero(p.run(isa)));
      p.causal = false;
      p.kv_length.assign(1, -5);
      CHECK(all_zero(p.run(isa)));
      // Some rows see nothing, next to rows that see something.
      p = Problem::random({1, 1, 1, queries, 70, 16, 16}, 10);
      p.causal = true;
      p.causal_offset = -(queries / 2);
      const std::vector<float> output = p.run(isa);
      for (int64_t i = 0; i < queries; ++i) {
        CHECK(all_zero(row_of(p, output, 0, i)) == (i < queries / 2));
      }
      p.e.keys = 0;
      CHECK(all_zero(p.run(isa)));
    }
  }
}

QFA_TEST(masks_of_every_kind_agree) {
  // The same visibility as bytes, as -inf and as the causal rule, alone and together.
  for (const qfa_isa isa : testable_isas()) {
    for (const int64_t queries : kQueryCounts) {
      Problem causal = Problem::random({1, 1, 1, queries, 90, 16, 16}, 11);
      Problem by_mask = causal, by_bias = causal;
      causal.causal = true;
      causal.causal_offset = 30;
      for (int64_t i = 0; i < queries; ++i) {
        for (int64_t j = 0; j < 90; ++j) {
          by_mask.mask.push_back(j <= i + 30);
          by_bias.bias.push_back(j <= i + 30 ? 0.0f : -INFINITY);
        }
      }
      const std::vector<float> expected = causal.run(isa);
      CHECK(same_bits(by_mask.run(isa), expected));
      CHECK(same_bits(by_bias.run(isa), expected));
      by_mask.bias = by_bias.bias;
      by_mask.causal = true;
      by_mask.causal_offset = 30;
      CHECK(same_bits(by_mask.run(isa), expected));
    }
  }
}

QFA_TEST(broadcast_masks_equal_written_out_ones) {
  Problem p = Problem::random({2, 2, 2, 33, 80, 16, 16}, 12);
  std::vector<uint8_t> row(2 * 80);
  Random random(13);
  for (uint8_t& m : row) m = random.below(2) != 0;
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t i = 0; i < 2 * 33; ++i) {
      p.mask.insert(p.mask.end(), row.begin() + b * 80, row.begin() + (b + 1) * 80);
    }
  }
  for (const qfa_isa isa : {QFA_ISA_SCALAR, QFA_ISA_AUTO}) {
    const std::vector<float> expected = p.run(isa);
    std::vector<float> output(expected.size());
    qfa_attention a = p.request(output.data());
    a.mask = {row.data(), {80, 0, 0, 1}};
    CHECK(qfa_attention_run(&a, isa, nullptr, nullptr, nullptr) == QFA_OK);
    CHECK(same_bits(output, expected));
  }
}

QFA_TEST(an_infinite_bias_is_felt_in_its_row_only) {
  for (const qfa_isa isa : testable_isas()) {
    for (const int64_t queries : {4, 20, 40}) {
      Problem p = Problem::random({1, 1, 1, queries, 70, 16, 16}, 14);
      p.bias.assign(static_cast<size_t>(queries * 70), 0.5f);
      const std::vector<float> clean = p.run(isa);
      p.bias[3 * 70 + 65] = INFINITY;
      const std::vector<float> output = p.run(isa);
      for (int64_t i = 0; i < queries; ++i) {
        CHECK(i == 3 ? all_nan(row_of(p, output, 0, i))
                     : same_bits(row_of(p, output, 0, i), row_of(p, clean, 0, i)));
      }
    }
  }
}

QFA_TEST(huge_and_equal_scores) {
  for (const qfa_isa isa : testable_isas()) {
    for (const int64_t queries : kQueryCounts) {
      Problem p = Problem::random({1, 1, 1, queries, 200, 16, 16}, 15);
      p.scale = 1e4f;
      for (const float x : p.run(isa)) CHECK(isfinite(x));
      // Equal scores give the mean of the values.
      for (float& k : p.key) k = 0.0f;
      CHECK(normalized_error(p.run(isa), p.oracle()) < 1e-3);
    }
  }
}

// Masks made of the lowest finite number: such keys do not count, but a row that has no others is
// the mean of their values, whatever its scores.
QFA_TEST(lowest_finite_bias) {
  constexpr float kLowest = -3.4028235e38f;
  for (const qfa_isa isa : testable_isas()) {
    for (const int64_t queries : {4, 12, 40}) {
      Problem p = Problem::random({1, 2, 1, queries, 200, 16, 16}, 15);
      p.scale = 3.0f;
      p.bias.assign(static_cast<size_t>(2 * queries * 200), kLowest);
      for (int64_t row = 0; row < 2 * queries; row += 2) {
        for (int64_t j = 0; j <= row % queries; ++j) {
          p.bias[static_cast<size_t>(row * 200 + j)] = 0.0f;
        }
      }
      const std::vector<float> output = p.run(isa);
      CHECK(normalized_error(output, p.oracle()) < 5e-4);
      p.query_row(0, 0, 1)[0] = NAN;  // a row without other keys
      const std::vector<float> spoiled = p.run(isa);
      CHECK(all_nan(row_of(p, spoiled, 0, 1)));
      CHECK(same_bits(row_of(p, spoiled, 0, 3), row_of(p, output, 0, 3)));
      for (float& b : p.bias) b = b == 0.0f ? 0.0f : -INFINITY;
      const std::vector<float> hidden = p.run(isa);
      for (int64_t i = 0; i < queries; i += 2) {
        CHECK(same_bits(row_of(p, output, 0, i), row_of(p, hidden, 0, i)));
      }
    }
  }
}

// Rows that average, next to rows that see keys and rows that see nothing, by the byte mask and the
// causal rule too: each as it is alone.
QFA_TEST(averaging_rows_do_not_touch_their_neighbours) {
  constexpr float kLowest = -3.4028235e38f;
  constexpr int64_t kKeys = 150;
  for (const auto& [isa, queries] : sets_and_counts()) {
    Problem p = Problem::random({1, 2, 1, queries, kKeys, 16, 16}, 17);
    p.causal = true;
    p.causal_offset = 70;
    p.bias.assign(static_cast<size_t>(2 * queries * kKeys), kLowest);
    p.mask.assign(static_cast<size_t>(2 * queries * kKeys), 1);
    for (int64_t row = 0; row < 2 * queries; ++row) {
      float* bias = p.bias.data() + row * kKeys;
      uint8_t* mask = p.mask.data() + row * kKeys;
      switch (row % 4) {
        case 0:  // sees one key, in the second block
          bias[66] = 0.5f;
          break;
        case 1:  // averages what the mask leaves of the keys that it reaches
          for (int64_t j = 0; j < kKeys; ++j) mask[j] = j % 3 != 0;
          break;
        case 2:  // sees nothing: the one key with another bias is hidden or out of reach
          for (int64_t j = 0; j < kKeys; ++j) bias[j] = -INFINITY;
          bias[5] = bias[kKeys - 1] = 1.0f;
          mask[5] = 0;
          break;
        default:  // averages, because the key with another bias is out of reach
          bias[kKeys - 1] = 1.0f;
      }
    }
    const std::vector<float> output = p.run(isa);
    CHECK(normalized_error(output, p.oracle()) < 5e-4);
    for (int64_t row = 0; row < 2 * queries; ++row) {
      const int64_t head = row / queries, i = row % queries;
      CHECK(all_zero(row_of(p, output, head, i)) == (row % 4 == 2));
      Problem alone = p;
      alone.e.heads = alone.e.queries = 1;
      alone.causal_offset += i;
      alone.query.assign(p.query_row(0, head, i), p.query_row(0, head, i) + 16);
      alone.bias.assign(p.bias.begin() + row * kKeys, p.bias.begin() + (row + 1) * kKeys);
      alone.mask.assign(p.mask.begin() + row * kKeys, p.mask.begin() + (row + 1) * kKeys);
      CHECK_THAT(same_bits(alone.run(isa), row_of(p, output, head, i)), "%s row %d",
                 qfa_isa_name(isa), static_cast<int>(row));
    }
  }
}

#if defined(__x86_64__)
QFA_TEST(the_callers_floating_point_mode_does_not_matter) {
  for (const auto& [isa, queries] : sets_and_counts()) {
    Problem p = Problem::random({1, 1, 1, queries, 1100, 16, 16}, 16);
    p.scale = 6.4f;  // its product with log2(e) rounds up
    const std::vector<float> expected = p.run(isa);
    const unsigned saved = _mm_getcsr();
    const unsigned odd_mode = 0x1f80 | 0x8040 | 0x6000;  // flush, denormals are zero, toward zero
    _mm_setcsr(odd_mode);
    const std::vector<float> output = p.run(isa);
    const unsigned after = _mm_getcsr();
    _mm_setcsr(saved);
    CHECK((after & 0xffc0) == odd_mode);
    CHECK_THAT(same_bits(output, expected), "%s", qfa_isa_name(isa));
  }
}
#endif

}  // namespace
}  // namespace qfa::test

// All of it holds for every format.
int main(int argc, char** argv) {
  int result = 0;
  for (const qfa_compute compute : {QFA_COMPUTE_INT8, QFA_COMPUTE_FLOAT}) {
    qfa::test::Problem::default_compute = compute;
    result |= qfa::test::main_of_tests(argc, argv);
  }
  return result;
}
