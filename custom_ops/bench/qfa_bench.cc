// Times attention and each of its steps on one thread: qfa_bench [S=T] [heads] [isa]. Then the
// steps of decoding; with S=T of 0, those alone.
//
// Rates count the multiplications and additions of full attention, 4 * H * S * T * D, whatever was
// skipped. Absolute times of one run mean little on a shared machine; compare columns of one run.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "few.h"
#include "kernels/kernels.h"
#include "kernels/score_zero.h"
#include "qfa/qfa.h"
#include "timing.h"

namespace {

using qfa::bench::best_of;
using qfa::bench::time_step;

std::vector<float> noise(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  uint32_t state = 1;
  for (float& v : values) {
    float sum = 0.0f;
    for (int i = 0; i < 4; ++i) {
      state = state * 1664525u + 1013904223u;
      sum += static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
    }
    v = sum * 1.7f;
  }
  return values;
}

double time_attention(qfa_isa isa, qfa_compute compute, int64_t heads, int64_t length,
                      int64_t channels, bool causal) {
  const int64_t count = heads * length * channels;
  const std::vector<float> query = noise(count), key = noise(count), value = noise(count);
  std::vector<float> output(static_cast<size_t>(count));
  qfa_attention a;
  memset(&a, 0, sizeof(a));
  a.struct_size = sizeof(a);
  a.batch = 1;
  a.heads = a.kv_heads = heads;
  a.query_length = a.key_length = length;
  a.qk_channels = a.v_channels = channels;
  const auto tensor = [&](const std::vector<float>& x) {
    return qfa_tensor{x.data(), QFA_FLOAT32, count, length * channels, channels};
  };
  a.query = tensor(query);
  a.key = tensor(key);
  a.value = tensor(value);
  a.scale = static_cast<float>(1.0 / sqrt(static_cast<double>(channels)));
  a.is_causal = causal ? 1 : 0;
  a.compute = compute;
  a.output = output.data();
  a.output_batch_stride = count;
  a.output_head_stride = length * channels;
  a.output_row_stride = channels;
  const char* message = "";
  return best_of(5, [&] {
    if (qfa_attention_run(&a, isa, nullptr, nullptr, &message) != QFA_OK) {
      fprintf(stderr, "%s\n", message);
      exit(1);
    }
  });
}

struct Steps {
  double scores, softmax, accumulate;
};

// Nanoseconds of each step for one block of 32 queries and 64 keys.
Steps time_codes(qfa_isa isa, int64_t channels) {
  using namespace qfa;
  const Kernels kernels = kernels_for(isa);
  const int64_t stride = (channels + kCodePad - 1) / kCodePad * kCodePad;
  alignas(64) static int8_t keys[kKeyBlock * 1024], values[1024 * kKeyBlock];
  alignas(64) static uint8_t queries[1024 * kLanes * kPackedCodeBytes], weights[kKeyBlock * kLanes];
  alignas(64) static int32_t scores[kKeyBlock * kLanes], start[kKeyBlock];
  alignas(64) static float lanes[5][kLanes], key_rows[3][kKeyBlock], output[1024 * kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[0][i] = 1e-4f;
  for (int j = 0; j < kKeyBlock; ++j) key_rows[0][j] = key_rows[2][j] = 1.0f;
  SoftmaxBlock block = {kKeyBlock,   2,           scores,      kScoreZero, lanes[0],
                        key_rows[0], key_rows[1], key_rows[2], nullptr,    nullptr,
                        weights,     lanes[1],    lanes[2],    lanes[3],   lanes[4]};
  Steps steps;
  kernels.begin_work();
  steps.scores = time_step([&] {
    kernels.scores(keys, stride, (channels + 3) / 4, queries, start, kKeyBlock, 2, scores);
  });
  steps.softmax = time_step([&] { kernels.softmax(block); });
  steps.accumulate = time_step([&] {
    kernels.accumulate(values, channels, weights, kKeyBlock, lanes[3], lanes[4], 2, output);
  });
  kernels.end_work();
  return steps;
}

// The same in float32.
Steps time_floats(qfa_isa isa, int64_t channels) {
  using namespace qfa;
  const Kernels kernels = kernels_for(isa);
  alignas(64) static float rows[kKeyBlock * 1024], queries[1024 * kLanes], output[1024 * kLanes];
  alignas(64) static float scores[kKeyBlock * kLanes], lanes[4][kLanes], spoil[kKeyBlock];
  for (int i = 0; i < kLanes; ++i) lanes[0][i] = 1e-4f;
  const FloatBlock block = {kKeyBlock, 2,       scores,  lanes[0], spoil,    0.0f,
                            0.0f,      nullptr, nullptr, lanes[1], lanes[2], lanes[3]};
  Steps steps;
  steps.scores =
      time_step([&] { kernels.float_scores(rows, channels, queries, kKeyBlock, 2, scores); });
  steps.softmax = time_step([&] { kernels.float_softmax(block); });
  steps.accumulate = time_step(
      [&] { kernels.float_accumulate(rows, channels, scores, kKeyBlock, lanes[3], 2, output); });
  return steps;
}

void print_attention(int64_t length, int64_t heads, const char* only) {
  printf("S = T = %lld, H = %lld, one thread\n", static_cast<long long>(length),
         static_cast<long long>(heads));
  printf("%-11s %-5s %4s | %9s %9s | %9s %9s | %8s %8s %8s\n", "isa", "", "D", "full ms", "GFLOP/s",
         "causal ms", "GFLOP/s", "QK ns", "softmax", "PV+join");
  for (const qfa_compute compute : {QFA_COMPUTE_INT8, QFA_COMPUTE_FLOAT}) {
    for (const qfa_isa isa : {QFA_ISA_AVX2, QFA_ISA_AVXVNNI, QFA_ISA_AVX512VNNI, QFA_ISA_AMXINT8}) {
      const bool is_float = compute == QFA_COMPUTE_FLOAT;
      // AMX has no float products of its own.
      if (qfa_isa_usable(isa) == 0 || (is_float && isa == QFA_ISA_AMXINT8)) continue;
      if (only != nullptr && strcmp(only, qfa_isa_name(isa)) != 0) continue;
      for (const int64_t channels : {64, 128}) {
        const double work = 4e-9 * static_cast<double>(heads * length * length * channels);
        const double full = time_attention(isa, compute, heads, length, channels, false);
        const double causal = time_attention(isa, compute, heads, length, channels, true);
        const Steps steps = is_float ? time_floats(isa, channels) : time_codes(isa, channels);
        printf("%-11s %-5s %4d | %9.2f %9.0f | %9.2f %9.0f | %8.0f %8.0f %8.0f\n",
               qfa_isa_name(isa), is_float ? "float" : "int8", static_cast<int>(channels),
               full * 1e3, work / full, causal * 1e3, work / causal, steps.scores, steps.softmax,
               steps.accumulate);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t length = argc > 1 ? atoll(argv[1]) : 2048;
  const int64_t heads = argc > 2 ? atoll(argv[2]) : 1;
  const char* only = argc > 3 ? argv[3] : nullptr;
  if (length > 0) print_attention(length, heads, only);
  qfa::bench::print_few(only);
  return 0;
}
