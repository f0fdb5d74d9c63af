#include "problem.h"

#include <math.h>
#include <string.h>

#include "amx_emulator.h"
#include "attention/run.h"
#include "check.h"
#include "kernels/arch.h"
#include "kernels/kernels.h"

namespace qfa::test {

uint32_t Random::bits() {
  state_ ^= state_ << 13;
  state_ ^= state_ >> 7;
  state_ ^= state_ << 17;
  return static_cast<uint32_t>((state_ * 0x2545f4914f6cdd1du) >> 32);
}

float Random::normal() {
  const double radius = sqrt(-2.0 * log(uniform()));
  return static_cast<float>(radius * cos(6.283185307179586 * uniform()));
}

// Half conversions by search and arithmetic in double: slow, and unlike the library's.
float half_to_float(uint16_t half) {
  const int exponent = (half >> 10) & 31, mantissa = half & 1023;
  double value;
  if (exponent == 31) {
    value = mantissa != 0 ? NAN : INFINITY;
  } else if (exponent == 0) {
    value = ldexp(mantissa, -24);
  } else {
    value = ldexp(1024 + mantissa, exponent - 25);
  }
  return static_cast<float>((half & 0x8000) != 0 ? -value : value);
}

uint16_t float_to_half(float value) {
  const uint16_t sign = signbit(value) ? 0x8000 : 0;
  if (isnan(value)) return static_cast<uint16_t>(sign | 0x7e00);
  const double magnitude = fabs(static_cast<double>(value));
  if (magnitude >= 65520.0) return static_cast<uint16_t>(sign | 0x7c00);
  int exponent = 0;
  frexp(magnitude, &exponent);
  if (exponent < -13) exponent = -13;
  // Steps of the half's mantissa; nearbyint rounds to nearest even.
  const double steps = nearbyint(ldexp(magnitude, 11 - exponent));
  const double rounded = ldexp(steps, exponent - 11);
  uint16_t low = 0, high = 0x7bff;
  while (low < high) {
    const uint16_t middle = static_cast<uint16_t>((low + high + 1) / 2);
    if (static_cast<double>(half_to_float(middle)) <= rounded) {
      low = middle;
    } else {
      high = static_cast<uint16_t>(middle - 1);
    }
  }
  if (rounded > 65504.0) return static_cast<uint16_t>(sign | 0x7c00);
  return static_cast<uint16_t>(sign | low);
}

// bfloat16 by the neighbours of the value: the nearer one, or the even one.
float bfloat_to_float(uint16_t bfloat) {
  const uint32_t bits = uint32_t{bfloat} * 65536u;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

uint16_t float_to_bfloat(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const uint16_t low = static_cast<uint16_t>(bits / 65536u);
  if (isnan(value)) return static_cast<uint16_t>(low | 0x40);
  if (bits % 65536u == 0) return low;
  const uint16_t high = static_cast<uint16_t>(low + 1);
  // Infinity stands at 2^128 here.
  const auto place = [](uint16_t b) {
    const double magnitude = fabs(static_cast<double>(bfloat_to_float(b)));
    return isinf(magnitude) ? 0x1p128 : magnitude;
  };
  const double magnitude = fabs(static_cast<double>(value));
  const double below = magnitude - place(low), above = place(high) - magnitude;
  if (below == above) return low % 2 == 0 ? low : high;
  return below < above ? low : high;
}

float narrow_to_float(uint16_t narrow, qfa_dtype dtype) {
  return dtype == QFA_BFLOAT16 ? bfloat_to_float(narrow) : half_to_float(narrow);
}

uint16_t float_to_narrow(float value, qfa_dtype dtype) {
  return dtype == QFA_BFLOAT16 ? float_to_bfloat(value) : float_to_half(value);
}

Problem Problem::random(const Extents& e, uint64_t seed, qfa_dtype dtype) {
  Problem p;
  p.e = e;
  p.dtype = dtype;
  p.compute = default_compute;
  Random random(seed);
  const auto fill = [&](std::vector<float>& tensor, int64_t count) {
    tensor.resize(static_cast<size_t>(count));
    for (float& x : tensor) x = random.normal();
  };
  fill(p.query, e.batch * e.heads * e.queries * e.channels);
  fill(p.key, e.batch * e.kv_heads * e.keys * e.channels);
  fill(p.value, e.batch * e.kv_heads * e.keys * e.value_channels);
  p.round_to_dtype();
  return p;
}

void Problem::round_to_dtype() {
  if (dtype == QFA_FLOAT32) return;
  const auto round = [this](std::vector<float>& tensor, std::vector<uint16_t>& half) {
    half.resize(tensor.size());
    for (size_t i = 0; i < tensor.size(); ++i) {
      half[i] = float_to_narrow(tensor[i], dtype);
      tensor[i] = narrow_to_float(half[i], dtype);
    }
  };
  round(query, query_half);
  round(key, key_half);
  round(value, value_half);
}

float* Problem::key_row(int64_t batch, int64_t head, int64_t token) {
  return key.data() + ((batch * e.kv_heads + head) * e.keys + token) * e.channels;
}
float* Problem::value_row(int64_t batch, int64_t head, int64_t token) {
  return value.data() + ((batch * e.kv_heads + head) * e.keys + token) * e.value_channels;
}
float* Problem::query_row(int64_t batch, int64_t head, int64_t token) {
  return query.data() + ((batch * e.heads + head) * e.queries + token) * e.channels;
}

void Problem::round_bias_to_half() {
  bias_half.clear();
  for (float& b : bias) {
    bias_half.push_back(float_to_half(b));
    b = half_to_float(bias_half.back());
  }
}

qfa_attention Problem::request(float* output) const {
  qfa_attention a;
  memset(&a, 0, sizeof(a));
  a.struct_size = sizeof(a);
  a.batch = e.batch;
  a.heads = e.heads;
  a.kv_heads = e.kv_heads;
  a.query_length = e.queries;
  a.key_length = e.keys - e.past;
  a.past_length = e.past;
  a.qk_channels = e.channels;
  a.v_channels = e.value_channels;
  const bool half = dtype != QFA_FLOAT32;
  const auto tensor = [&](const std::vector<float>& wide, const std::vector<uint16_t>& narrow,
                          int64_t heads, int64_t rows, int64_t channels) {
    const void* data = half ? static_cast<const void*>(narrow.data()) : wide.data();
    return qfa_tensor{data, dtype, heads * rows * channels, rows * channels, channels};
  };
  a.query = tensor(query, query_half, e.heads, e.queries, e.channels);
  a.key = tensor(key, key_half, e.kv_heads, e.keys, e.channels);
  a.value = tensor(value, value_half, e.kv_heads, e.keys, e.value_channels);
  if (e.past > 0) {
    // Both parts lie in one tensor, the present one `past` rows behind the other.
    a.past_key = a.key;
    a.past_value = a.value;
    const int64_t size = half ? 2 : 4;
    a.key.data = static_cast<const char*>(a.key.data) + size * e.past * e.channels;
    a.value.data = static_cast<const char*>(a.value.data) + size * e.past * e.value_channels;
  }
  const int64_t square = e.queries * e.keys;
  if (!mask.empty()) a.mask = {mask.data(), {e.heads * square, square, e.keys, 1}};
  if (!bias.empty()) a.bias = {bias.data(), {e.heads * square, square, e.keys, 1}};
  if (!bias_half.empty()) {
    a.bias.data = bias_half.data();
    a.bias_dtype = QFA_FLOAT16;
  }
  a.scale = scale != 0.0f ? scale : static_cast<float>(1.0 / sqrt(static_cast<double>(e.channels)));
  a.is_causal = causal ? 1 : 0;
  a.causal_offset = causal_offset;
  a.queries_at_end = queries_at_end ? 1 : 0;
  a.has_left_window = left_window >= 0 ? 1 : 0;
  a.left_window = left_window;
  a.has_right_window = right_window >= 0 ? 1 : 0;
  a.right_window = right_window;
  a.softcap = softcap;
  a.compute = compute;
  if (!sink.empty()) a.sink = sink.data();
  a.sink_per_head = sink.size() > 1 ? 1 : 0;
  if (!kv_length.empty()) a.kv_length = kv_length.data();
  a.kv_length_count = static_cast<int64_t>(kv_length.size());
  const auto scales = [](const std::vector<float>& s, const float** data, int64_t* count) {
    *data = s.empty() ? nullptr : s.data();
    *count = static_cast<int64_t>(s.size());
  };
  scales(q_scale, &a.q_scale, &a.q_scale_count);
  scales(k_scale, &a.k_scale, &a.k_scale_count);
  scales(v_scale, &a.v_scale, &a.v_scale_count);
  a.k_mean = k_mean.empty() ? nullptr : k_mean.data();
  a.rotation = rotate ? QFA_ROTATE_HADAMARD : QFA_ROTATE_NONE;
  a.output = output;
  if (half) {
    output_half.assign(static_cast<size_t>(output_count()), 0x7e01);
    a.output = output_half.data();
  }
  a.output_row_stride = e.value_channels;
  a.output_head_stride = e.queries * e.value_channels;
  a.output_batch_stride = e.heads * a.output_head_stride;
  return a;
}

std::vector<float> Problem::run(qfa_isa isa, const qfa_executor* executor) const {
  std::vector<float> output(static_cast<size_t>(output_count()), -12345.0f);
  const qfa_attention a = request(output.data());
  const char* message = "";
  // The C interface refuses what the processor lacks; emulated kernels are run below it.
  const bool emulated = isa == QFA_ISA_AMXINT8 && qfa_isa_usable(isa) == 0;
  const qfa_status status = !emulated ? qfa_attention_run(&a, isa, executor, nullptr, &message)
                                      : run_attention(&a, kernels_for(isa), executor, nullptr);
  CHECK_THAT(status == QFA_OK, "status %d: %s", static_cast<int>(status), message);
  if (dtype != QFA_FLOAT32) {
    for (size_t i = 0; i < output.size(); ++i) output[i] = narrow_to_float(output_half[i], dtype);
  }
  return output;
}

std::vector<double> Problem::oracle() const {
  std::vector<double> output(static_cast<size_t>(output_count()), 0.0);
  const double factor =
      scale != 0.0f ? static_cast<double>(scale) : 1.0 / sqrt(static_cast<double>(e.channels));
  std::vector<double> weight(static_cast<size_t>(e.keys));
  const int64_t sharing = e.kv_heads == 0 ? 1 : e.heads / e.kv_heads;
  for (int64_t row = 0; row < e.batch * e.heads * e.queries; ++row) {
    const int64_t i = row % e.queries, head = row / e.queries % e.heads;
    const int64_t kv = row / e.queries / e.heads * e.kv_heads + head / sharing;
    const size_t batch = static_cast<size_t>(row / e.queries / e.heads);
    double length = static_cast<double>(e.keys);
    if (!kv_length.empty()) {
      const int64_t given = kv_length[kv_length.size() == 1 ? 0 : batch];
      length = fmin(fmax(static_cast<double>(given), 0.0), length);
    }
    const double position = static_cast<double>(i) + static_cast<double>(causal_offset) +
                            (queries_at_end ? length - static_cast<double>(e.queries) : 0.0);
    double largest = -INFINITY, sum = 0.0;
    for (int64_t j = 0; j < e.keys; ++j) {
      double score = 0.0;
      for (int64_t c = 0; c < e.channels; ++c) {
        score += static_cast<double>(query[row * e.channels + c]) *
                 static_cast<double>(key[(kv * e.keys + j) * e.channels + c]);
      }
      score *= factor;
      if (softcap > 0.0f) {
        const double cap = static_cast<double>(softcap);
        score = cap * tanh(score / cap);
      }
      if (!bias.empty()) score += static_cast<double>(bias[row * e.keys + j]);
      if (!mask.empty() && mask[row * e.keys + j] == 0) score = -INFINITY;
      const double place = static_cast<double>(j);
      if (causal && place > position) score = -INFINITY;
      if (left_window >= 0 && place < position - static_cast<double>(left_window)) {
        score = -INFINITY;
      }
      if (right_window >= 0 && place > position + static_cast<double>(right_window)) {
        score = -INFINITY;
      }
      if (place >= length) score = -INFINITY;
      weight[j] = score;
      largest = fmax(largest, score);
    }
    if (largest == -INFINITY) continue;
    const double logit =
        sink.empty() ? -INFINITY
                     : static_cast<double>(sink[sink.size() == 1 ? 0 : static_cast<size_t>(head)]);
    largest = fmax(largest, logit);
    sum = exp(logit - largest);
    for (double& w : weight) sum += w = exp(w - largest);
    for (int64_t j = 0; j < e.keys; ++j) {
      for (int64_t c = 0; c < e.value_channels && weight[j] != 0.0; ++c) {
        output[row * e.value_channels + c] +=
            weight[j] / sum * static_cast<double>(value[(kv * e.keys + j) * e.value_channels + c]);
      }
    }
  }
  return output;
}

double normalized_error(const std::vector<float>& actual, const std::vector<double>& expected) {
  double error = 0.0, power = 0.0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double difference = static_cast<double>(actual[i]) - expected[i];
    error += difference * difference;
    power += expected[i] * expected[i];
  }
  return error == 0.0 ? 0.0 : error / power;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (isnan(a[i]) && isnan(b[i])) continue;
    if (memcmp(&a[i], &b[i], 4) != 0) return false;
  }
  return true;
}

std::vector<qfa_isa> testable_isas() {
  std::vector<qfa_isa> isas;
  for (const qfa_isa isa : kInstructionSetOrder) {
    const bool emulated = isa == QFA_ISA_AMXINT8 && amx_available();
    if (emulated || qfa_isa_usable(isa) != 0) isas.push_back(isa);
  }
  return isas;
}

}  // namespace qfa::test
