// The operator against attention in double precision, and the same bits on every instruction set.
#include <math.h>
#include <string.h>

#include "check.h"
#include "problem.h"

namespace qfa::test {
namespace {

constexpr double kBound = 5e-4;

// Accuracy of the scalar kernels, and bit equality of all others with them.
void check_problem(const Problem& p, double bound = kBound) {
  if (p.compute == QFA_COMPUTE_FLOAT) {
    bound = p.dtype == QFA_FLOAT32 ? 1e-11 : (p.dtype == QFA_FLOAT16 ? 2e-7 : 1e-5);
  }
  const std::vector<float> scalar = p.run(QFA_ISA_SCALAR);
  const double error = normalized_error(scalar, p.oracle());
  CHECK_THAT(error <= bound, "error %g: B %d H %d/%d S %d T %d D %d Dv %d", error,
             static_cast<int>(p.e.batch), static_cast<int>(p.e.heads),
             static_cast<int>(p.e.kv_heads), static_cast<int>(p.e.queries),
             static_cast<int>(p.e.keys), static_cast<int>(p.e.channels),
             static_cast<int>(p.e.value_channels));
  for (const qfa_isa isa : testable_isas()) {
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
  for (const int64_t channels :
       {1, 3, 8, 9, 13, 40, 63, 64, 65, 80, 96, 127, 128, 129, 192, 193, 255, 256}) {
    check_problem(Problem::random({1, 2, 1, 21, 70, channels, channels}, seed++));
    check_problem(Problem::random({1, 1, 1, 17, 65, channels, 33}, seed++));
    check_problem(Problem::random({1, 1, 1, 17, 65, 33, channels}, seed++));
  }
}

QFA_TEST(batches_and_shared_heads) {
  check_problem(Problem::random({2, 3, 3, 20, 70, 32, 32}, 2000));
  check_problem(Problem::random({2, 6, 2, 20, 70, 32, 48}, 2001));
  check_problem(Problem::random({1, 9, 3, 1, 130, 64, 64}, 2002));  // decoding
  check_problem(Problem::random({3, 8, 1, 5, 66, 64, 64}, 2003));   // one key/value head
  check_problem(Problem::random({0, 4, 2, 5, 6, 8, 8}, 2004));
  check_problem(Problem::random({1, 0, 0, 5, 6, 8, 8}, 2005));
}

QFA_TEST(causal_with_any_offset) {
  uint64_t seed = 3000;
  for (const int64_t offset : {int64_t{0}, int64_t{1}, int64_t{-1}, int64_t{-40}, int64_t{-200},
                               int64_t{63}, int64_t{64}, int64_t{100}, INT64_MAX, INT64_MIN}) {
    Problem p = Problem::random({1, 2, 1, 90, 150, 24, 24}, seed++);
    p.causal = true;
    p.causal_offset = offset;
    if (offset > 150 || offset < -150) p.causal_offset = offset > 0 ? 1000 : -1000;
    const std::vector<double> expected = p.oracle();
    p.causal_offset = offset;
    const std::vector<float> output = p.run(QFA_ISA_SCALAR);
    CHECK_THAT(normalized_error(output, expected) <= kBound, "offset %lld",
               static_cast<long long>(offset));
    for (const qfa_isa isa : testable_isas()) CHECK(same_bits(p.run(isa), output));
  }
}

void add_mask(Problem& p, uint64_t seed, uint32_t percent) {
  Random random(seed);
  p.mask.resize(static_cast<size_t>(p.e.batch * p.e.heads * p.e.queries * p.e.keys));
  for (uint8_t& m : p.mask) m = random.below(100) < percent ? 1 + random.below(255) : 0;
  // Whole blocks, and whole rows, of either kind.
  for (int64_t i = 0; i < p.e.queries; ++i) {
    uint8_t* row = p.mask.data() + i * p.e.keys;
    for (int64_t j = 0; j < p.e.keys; ++j) {
      if (i < 40 && j < 64) row[j] = 1;
      if (i >= 30 && j >= 64 && j < 128) row[j] = 0;
      if (i == 70) row[j] = 0;
    }
  }
}

void add_bias(Problem& p, uint64_t seed) {
  Random random(seed);
  p.bias.resize(static_cast<size_t>(p.e.batch * p.e.heads * p.e.queries * p.e.keys));
  for (size_t i = 0; i < p.bias.size(); ++i) {
    constexpr float kMasking[] = {-INFINITY, -3.4028235e38f, -1e9f, -65504.0f};
    const uint32_t kind = random.below(8);
    p.bias[i] = kind < 4 ? kMasking[kind] : random.normal();
    if (i % static_cast<size_t>(p.e.keys) == 0) p.bias[i] = 0.0f;  // every row sees something
  }
}

QFA_TEST(masks_and_biases) {
  uint64_t seed = 4000;
  for (const int kind : {1, 2, 3}) {
    for (const bool causal : {false, true}) {
      Problem p = Problem::random({2, 2, 1, 80, 200, 32, 32}, seed++);
      p.causal = causal;
      p.causal_offset = 50;
      if ((kind & 1) != 0) add_mask(p, seed, 70);
      if ((kind & 2) != 0) add_bias(p, seed);
      check_problem(p);
    }
  }
}

QFA_TEST(half_precision) {
  uint64_t seed = 5000;
  for (const int64_t channels : {8, 13, 64, 80, 128}) {
    check_problem(Problem::random({1, 4, 2, 33, 100, channels, channels}, seed++, QFA_FLOAT16));
  }
}

QFA_TEST(half_precision_bias) {
  for (const bool masked : {false, true}) {
    Problem p = Problem::random({1, 4, 2, 20, 90, 16, 16}, 5100);
    add_bias(p, 5101);
    if (masked) add_mask(p, 5102, 60);
    p.round_bias_to_half();
    check_problem(p);
  }
}

QFA_TEST(bfloat) {
  uint64_t seed = 5200;
  for (const int64_t channels : {8, 13, 64, 80, 128}) {
    check_problem(Problem::random({1, 4, 2, 33, 100, channels, channels}, seed++, QFA_BFLOAT16));
  }
}

constexpr qfa_compute kComputes[] = {QFA_COMPUTE_INT8, QFA_COMPUTE_FLOAT};

QFA_TEST(floats) {
  uint64_t seed = 5250;
  for (const qfa_dtype dtype : {QFA_FLOAT32, QFA_FLOAT16, QFA_BFLOAT16}) {
    for (const int64_t channels : {1, 13, 64, 80, 128, 257}) {
      Problem p = Problem::random({2, 4, 2, 33, 100, channels, channels}, seed++, dtype);
      p.compute = QFA_COMPUTE_FLOAT;
      check_problem(p);
      p.rotate = channels % 8 == 0;
      p.causal = true;
      add_mask(p, seed, 70);
      check_problem(p);
    }
  }
  for (const int64_t queries : {1, 2, 16, 17, 65}) {
    for (const int64_t keys : {0, 1, 2, 15, 16, 17, 63, 64, 65, 239}) {
      Problem p = Problem::random({1, 1, 1, queries, keys, 16, 24}, seed++);
      p.compute = QFA_COMPUTE_FLOAT;
      check_problem(p);
      add_bias(p, seed);
      check_problem(p);
    }
  }
}

QFA_TEST(positions_windows_and_lengths) {
  struct Case {
    bool causal, at_end;
    int64_t left, right;
    std::vector<int64_t> lengths;
  };
  const Case cases[] = {
      {true, true, -1, -1, {}},
      {true, false, 7, -1, {}},
      {false, false, 3, 2, {}},
      {false, false, 0, 0, {}},
      {true, true, 64, -1, {}},
      {false, true, 100, 31, {}},
      {false, false, INT64_MAX, INT64_MAX, {}},
      {true, true, INT64_MAX, -1, {INT64_MAX}},
      {false, false, -1, -1, {0, 1}},
      {false, false, -1, -1, {64, 239}},
      {false, false, -1, -1, {-3, 130}},
      {true, true, -1, -1, {200, 40}},
      {true, true, 20, -1, {200, 10}},
      {false, true, 5, 90, {INT64_MIN, 150}},
  };
  uint64_t seed = 5300;
  for (const qfa_compute compute : kComputes) {
    for (const Case& c : cases) {
      for (const bool masked : {false, true}) {
        Problem p = Problem::random({2, 4, 2, 70, 239, 16, 24}, seed++);
        p.compute = compute;
        p.causal = c.causal;
        p.queries_at_end = c.at_end;
        p.left_window = c.left;
        p.right_window = c.right;
        p.kv_length = c.lengths;
        if (masked) add_mask(p, seed, 70);
        check_problem(p);
      }
    }
  }
}

QFA_TEST(sinks) {
  uint64_t seed = 5400;
  for (const qfa_compute compute : kComputes) {
    for (const float size : {0.01f, 1.0f, 50.0f}) {
      Problem p = Problem::random({2, 4, 2, 40, 150, 32, 32}, seed++);
      p.compute = compute;
      p.causal = true;
      for (float& v : p.value) v *= size;
      for (const auto& sink : {std::vector<float>{1.5f}, {-INFINITY, -30.0f, 3.0f, 90.0f}}) {
        p.sink = sink;
        check_problem(p);
      }
    }
  }
}

QFA_TEST(softcaps) {
  uint64_t seed = 5500;
  for (const qfa_compute compute : kComputes) {
    for (const float cap : {0.5f, 3.0f, 50.0f, 1e4f}) {
      Problem p = Problem::random({1, 4, 2, 40, 150, 32, 32}, seed++);
      p.compute = compute;
      p.scale = 1.0f;  // large scores, so that the cap is felt
      p.softcap = cap;
      check_problem(p, cap < 1e3f ? kBound : 40 * kBound);
      p.causal = true;
      p.causal_offset = 100;
      add_bias(p, seed);
      p.sink.assign(1, 2.0f);
      check_problem(p, cap < 1e3f ? kBound : 40 * kBound);
    }
  }
}

QFA_TEST(past_keys_stand_in_front) {
  uint64_t seed = 5600;
  for (const qfa_compute compute : kComputes) {
    for (const qfa_dtype dtype : {QFA_FLOAT32, QFA_FLOAT16, QFA_BFLOAT16}) {
      for (const int64_t past : {0, 1, 63, 64, 149, 150}) {
        Problem p = Problem::random({2, 4, 2, 5, 150, 24, 40, past}, seed++, dtype);
        p.compute = compute;
        p.queries_at_end = true;
        p.causal = true;
        check_problem(p);
        // The present is the past and what follows it, and the same bits as without a past.
        const std::vector<float> expected = p.run(QFA_ISA_AUTO);
        std::vector<char> output(expected.size() * 4), key(p.key.size() * 4),
            value(p.value.size() * 4);
        qfa_attention a = p.request(reinterpret_cast<float*>(output.data()));
        a.present_key = {key.data(), 2 * 150 * 24, 150 * 24, 24};
        a.present_value = {value.data(), 2 * 150 * 40, 150 * 40, 40};
        CHECK(qfa_attention_run(&a, QFA_ISA_AUTO, nullptr, nullptr, nullptr) == QFA_OK);
        const bool half = dtype != QFA_FLOAT32;
        const size_t size = half ? 2 : 4;
        const void* whole_key = half ? static_cast<const void*>(p.key_half.data()) : p.key.data();
        const void* whole_value =
            half ? static_cast<const void*>(p.value_half.data()) : p.value.data();
        CHECK(memcmp(key.data(), whole_key, p.key.size() * size) == 0);
        CHECK(memcmp(value.data(), whole_value, p.value.size() * size) == 0);
        p.e.past = 0;
        CHECK(same_bits(p.run(QFA_ISA_AUTO), expected));
      }
    }
  }
}

QFA_TEST(static_scales) {
  uint64_t seed = 6000;
  for (const bool per_head : {false, true}) {
    Problem p = Problem::random({2, 4, 2, 40, 100, 64, 64}, seed++);
    const float step = 4.5f / 127.0f;
    p.q_scale.assign(per_head ? 4 : 1, step);
    p.k_scale.assign(per_head ? 2 : 1, step * 1.05f);
    p.v_scale.assign(per_head ? 2 : 1, step * 0.97f);
    check_problem(p, 1e-3);  // clips the tails and spends codes on the widest row
  }
}

QFA_TEST(mean_of_keys_does_not_show) {
  Problem p = Problem::random({1, 4, 2, 40, 100, 64, 64}, 7000);
  Random random(7001);
  p.k_mean.resize(2 * 64);
  for (float& m : p.k_mean) m = 8.0f * random.normal();
  for (int64_t head = 0; head < 2; ++head) {
    for (int64_t t = 0; t < 100; ++t) {
      for (int64_t c = 0; c < 64; ++c) p.key_row(0, head, t)[c] += p.k_mean[head * 64 + c];
    }
  }
  // The oracle sees the shifted keys: softmax cancels the shift, int8 codes alone would not.
  check_problem(p);
  p.k_mean.clear();
  CHECK(normalized_error(p.run(QFA_ISA_SCALAR), p.oracle()) > 4 * kBound);
}

QFA_TEST(rotation_does_not_show) {
  uint64_t seed = 8000;
  for (const int64_t channels : {8, 24, 40, 64, 80, 96, 128, 192, 256}) {
    Problem p = Problem::random({1, 2, 1, 21, 70, channels, 32}, seed++);
    p.rotate = true;
    check_problem(p);
  }
  // One channel much larger than the rest is what the rotation is for.
  Problem p = Problem::random({1, 1, 1, 40, 100, 64, 64}, seed);
  for (int64_t t = 0; t < 100; ++t) p.key_row(0, 0, t)[5] *= 40.0f;
  for (int64_t t = 0; t < 40; ++t) p.query_row(0, 0, t)[5] /= 40.0f;
  const double plain = normalized_error(p.run(QFA_ISA_SCALAR), p.oracle());
  p.rotate = true;
  const double rotated = normalized_error(p.run(QFA_ISA_SCALAR), p.oracle());
  CHECK_THAT(rotated < plain / 2, "rotated %g plain %g", rotated, plain);
}

QFA_TEST(value_rows_of_zeros_take_no_precision) {
  for (const float size : {1e-6f, 0.01f, 1.0f, 1e4f}) {
    Problem p = Problem::random({1, 1, 1, 40, 100, 32, 32}, 9000);
    for (float& v : p.value) v *= size;
    for (int64_t t = 0; t < 100; t += 7) memset(p.value_row(0, 0, t), 0, 32 * 4);
    check_problem(p);
  }
}

QFA_TEST(value_rows_of_different_size) {
  Problem p = Problem::random({1, 1, 1, 64, 300, 32, 32}, 9100);
  for (int64_t t = 0; t < 300; ++t) {
    for (int64_t c = 0; c < 32; ++c) p.value_row(0, 0, t)[c] *= ldexpf(1.0f, int(t % 9) - 4);
  }
  check_problem(p);
}

QFA_TEST(long_flat_softmax_keeps_its_tail) {
  // One key weighs a thousand times as much as each of the others, and all others together three
  // times as much as it. Codes relative to the row's maximum would round the others to nothing.
  Problem p = Problem::random({1, 1, 1, 4, 3000, 32, 32}, 9200);
  for (float& q : p.query) q *= 0.1f;
  for (float& v : p.value) v += 0.5f;
  p.bias.assign(4 * 3000, 0.0f);
  for (size_t i = 0; i < 4; ++i) p.bias[i * 3000 + 7] = 7.0f;
  check_problem(p);
}

QFA_TEST(layout_with_heads_inside_tokens) {
  Problem p = Problem::random({2, 4, 2, 30, 50, 24, 40}, 9300);
  const std::vector<float> expected = p.run(QFA_ISA_SCALAR);
  // (B, S, H, D) instead of (B, H, S, D).
  const auto moved = [](const std::vector<float>& x, int64_t heads, int64_t rows,
                        int64_t channels) {
    std::vector<float> y(x.size());
    for (int64_t i = 0; i < static_cast<int64_t>(x.size()); ++i) {
      const int64_t c = i % channels, r = i / channels % rows, h = i / channels / rows % heads;
      const int64_t b = i / channels / rows / heads;
      y[static_cast<size_t>(((b * rows + r) * heads + h) * channels + c)] = x[i];
    }
    return y;
  };
  const std::vector<float> q = moved(p.query, 4, 30, 24), k = moved(p.key, 2, 50, 24),
                           v = moved(p.value, 2, 50, 40);
  std::vector<float> output(expected.size());
  qfa_attention a = p.request(output.data());
  a.query = {q.data(), QFA_FLOAT32, 30 * 4 * 24, 24, 4 * 24};
  a.key = {k.data(), QFA_FLOAT32, 50 * 2 * 24, 24, 2 * 24};
  a.value = {v.data(), QFA_FLOAT32, 50 * 2 * 40, 40, 2 * 40};
  a.output_batch_stride = 30 * 4 * 40;
  a.output_head_stride = 40;
  a.output_row_stride = 4 * 40;
  CHECK(qfa_attention_run(&a, QFA_ISA_AUTO, nullptr, nullptr, nullptr) == QFA_OK);
  CHECK(same_bits(output, moved(expected, 4, 30, 40)));
}

}  // namespace
}  // namespace qfa::test

QFA_TEST_MAIN
