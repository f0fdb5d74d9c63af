// Attention problems for tests: random tensors, a request that points at them, and an oracle in
// double precision that shares nothing with the library.
#ifndef QFA_TESTS_PROBLEM_H_
#define QFA_TESTS_PROBLEM_H_

#include <stdint.h>

#include <vector>

#include "qfa/qfa.h"

namespace qfa::test {

// A small generator, the same on every platform.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint32_t bits();
  uint32_t below(uint32_t end) { return static_cast<uint32_t>((uint64_t{bits()} * end) >> 32); }
  double uniform() { return (bits() + 0.5) / 4294967296.0; }
  float normal();

 private:
  uint64_t state_;
};

// `keys` counts all of them; the first `past` of them are given as past keys.
struct Extents {
  int64_t batch = 1, heads = 1, kv_heads = 1, queries = 1, keys = 1, channels = 64,
          value_channels = 64, past = 0;
};

// Tensors are stored contiguously in the order of their letters. Half tensors (float16 or bfloat16)
// hold the rounded values in `*_half`; the float copies always hold what the operator sees.
struct Problem {
  Extents e;
  qfa_dtype dtype = QFA_FLOAT32;
  float scale = 0.0f;  // 0: 1 / sqrt(D)
  bool causal = false;
  int64_t causal_offset = 0;
  bool queries_at_end = false;
  int64_t left_window = -1, right_window = -1;  // -1: none
  float softcap = 0.0f;
  bool rotate = false;
  qfa_compute compute = QFA_COMPUTE_INT8;
  std::vector<float> query, key, value;
  std::vector<uint16_t> query_half, key_half, value_half;
  std::vector<uint8_t> mask;        // empty or (B, H, S, T)
  std::vector<float> bias;          // empty or (B, H, S, T)
  std::vector<uint16_t> bias_half;  // what the operator gets instead, where it is not empty
  std::vector<float> q_scale, k_scale, v_scale, k_mean;
  std::vector<float> sink;         // empty, one, or H
  std::vector<int64_t> kv_length;  // empty, one, or B
  mutable std::vector<uint16_t> output_half;

  // What random() makes its problems of; a test that holds for every format runs for each.
  static inline qfa_compute default_compute = QFA_COMPUTE_INT8;

  // Unit-normal query, key and value.
  static Problem random(const Extents& e, uint64_t seed, qfa_dtype dtype = QFA_FLOAT32);

  float* key_row(int64_t batch, int64_t head, int64_t token);
  float* value_row(int64_t batch, int64_t head, int64_t token);
  float* query_row(int64_t batch, int64_t head, int64_t token);
  // After a change of query, key or value: rounds them where the problem is half.
  void round_to_dtype();
  void round_bias_to_half();

  int64_t output_count() const { return e.batch * e.heads * e.queries * e.value_channels; }
  // A request that writes to `output`, which for a half problem is output_half instead.
  qfa_attention request(float* output) const;
  // Runs the operator; a failure is reported as a test failure.
  std::vector<float> run(qfa_isa isa, const qfa_executor* executor = nullptr) const;
  // Attention in double precision from the textbook.
  std::vector<double> oracle() const;
};

// Sum of squared errors over sum of squares; 0 when both are 0.
double normalized_error(const std::vector<float>& actual, const std::vector<double>& expected);

// Bit equality, except that any NaN equals any NaN.
bool same_bits(const std::vector<float>& a, const std::vector<float>& b);

// The instruction sets that can run here, scalar first; AMX perhaps by emulation.
std::vector<qfa_isa> testable_isas();

float half_to_float(uint16_t half);
uint16_t float_to_half(float value);
float narrow_to_float(uint16_t narrow, qfa_dtype dtype);  // of float16 or bfloat16
uint16_t float_to_narrow(float value, qfa_dtype dtype);

}  // namespace qfa::test

#endif  // QFA_TESTS_PROBLEM_H_
