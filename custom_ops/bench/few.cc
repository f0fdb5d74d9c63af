#include "few.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/score_zero.h"
#include "timing.h"

namespace qfa::bench {
namespace {

constexpr int64_t kMostChannels = 128;
constexpr int64_t kCacheKeys = 256 * 1024;  // K and V of 64 MB: beyond any cache but the largest
constexpr int64_t kSegment = 4096;          // keys between two looks at the clock

// What lies in memory for decoding with caches of int8, or of float32.
struct Memory {
  explicit Memory(int64_t keys)
      : key(static_cast<size_t>(keys * kMostChannels)),
        value(key.size()),
        key_scale(static_cast<size_t>(keys), 1e-2f),
        value_scale(key_scale) {
    for (size_t i = 0; i < key.size(); ++i) {
      key[i] = static_cast<int8_t>(i * 37 + (i >> 9));
      value[i] = static_cast<int8_t>(i * 29 + (i >> 8));
    }
  }

  std::vector<int8_t> key, value;
  std::vector<float> key_scale, value_scale;
};

// The queries, and all that their kernels write.
struct Queries {
  explicit Queries(int query_count) : count(query_count) {
    for (float& x : scale) x = 1e-4f;
    for (float& x : running_max) x = -INFINITY;
  }

  FewBlock block(const float* key_scale) {
    return {kKeyBlock, count,   scores,  scale,       key_scale,   value_log2, value_inverse,
            nullptr,   nullptr, weights, running_max, running_sum, keep,       gain};
  }
  FewFloatBlock float_block() {
    return {kKeyBlock, count,   float_scores, scale,       spoil,
            nullptr,   nullptr, running_max,  running_sum, keep};
  }

  int count;
  alignas(64) int8_t codes[kMostFew * kMostChannels] = {};
  alignas(64) uint8_t weights[kMostFew * kKeyBlock] = {};
  alignas(64) int32_t scores[kMostFew * kKeyBlock] = {};
  alignas(64) float numbers[kMostFew * kMostChannels] = {};
  alignas(64) float float_scores[kMostFew * kKeyBlock] = {};
  alignas(64) float output[kMostFew * kMostChannels] = {};
  alignas(64) float value_log2[kKeyBlock] = {}, value_inverse[kKeyBlock] = {};
  alignas(64) float spoil[kKeyBlock] = {};
  float scale[kMostFew], running_max[kMostFew];
  float running_sum[kMostFew] = {}, keep[kMostFew] = {}, gain[kMostFew] = {};
};

struct Steps {
  double scales, scores, softmax, accumulate;
  double all() const { return scales + scores + softmax + accumulate; }
};

// Nanoseconds per key of each step, for a block that stays in the caches nearby.
Steps time_codes(const Kernels& kernels, const Memory& memory, Queries& q, int64_t channels) {
  const FewBlock block = q.block(memory.key_scale.data());
  const int8_t *key = memory.key.data(), *value = memory.value.data();
  const auto per_key = [](const auto& step) { return time_step(step) / kKeyBlock; };
  return {per_key([&] {
            kernels.value_scales(memory.value_scale.data(), kKeyBlock, q.value_log2,
                                 q.value_inverse);
          }),
          per_key([&] {
            kernels.few_scores(key, channels, channels, q.codes, q.count, kKeyBlock, q.scores);
          }),
          per_key([&] { kernels.few_softmax(block); }), per_key([&] {
            kernels.few_accumulate(value, channels, channels, q.weights, q.count, q.keep, q.gain,
                                   q.output);
          })};
}

Steps time_floats(const Kernels& kernels, Queries& q, int64_t channels) {
  static const std::vector<float> rows(static_cast<size_t>(kKeyBlock * kMostChannels), 0.5f);
  const FewFloatBlock block = q.float_block();
  const auto per_key = [](const auto& step) { return time_step(step, 300) / kKeyBlock; };
  return {0.0, per_key([&] {
            kernels.few_float_scores(rows.data(), channels, q.numbers, q.count, kKeyBlock,
                                     q.float_scores);
          }),
          per_key([&] { kernels.few_float_softmax(block); }), per_key([&] {
            kernels.few_float_accumulate(rows.data(), channels, q.float_scores, q.count, kKeyBlock,
                                         q.keep, q.output);
          })};
}

// Nanoseconds per key of all steps with a query in each lane of one vector, V transposed first.
double time_lanes(const Kernels& kernels, const Memory& memory, int64_t channels) {
  alignas(64) static int8_t columns[kMostChannels * kKeyBlock];
  alignas(64) static uint8_t queries[kMostChannels * kLanes * kPackedCodeBytes];
  alignas(64) static uint8_t weights[kKeyBlock * kLanes];
  alignas(64) static int32_t scores[kKeyBlock * kLanes], start[kKeyBlock];
  alignas(64) static float lanes[5][kLanes], value_log2[kKeyBlock], value_inverse[kKeyBlock];
  alignas(64) static float output[kMostChannels * kLanes];
  std::fill(lanes[0], lanes[0] + kLanes, 1e-4f);
  const SoftmaxBlock block = {kKeyBlock,  1,
                              scores,     kScoreZero,
                              lanes[0],   memory.key_scale.data(),
                              value_log2, value_inverse,
                              nullptr,    nullptr,
                              weights,    lanes[1],
                              lanes[2],   lanes[3],
                              lanes[4]};
  kernels.begin_work();
  const double ns = time_step([&] {
    kernels.value_scales(memory.value_scale.data(), kKeyBlock, value_log2, value_inverse);
    kernels.scores(memory.key.data(), channels, channels / 4, queries, start, kKeyBlock, 1, scores);
    kernels.softmax(block);
    kernels.transpose_codes(memory.value.data(), channels, channels, columns);
    kernels.accumulate(columns, channels, weights, kKeyBlock, lanes[3], lanes[4], 1, output);
  });
  kernels.end_work();
  return ns / kKeyBlock;
}

struct Far {
  double read, attend;
};

// Nanoseconds per key for keys that come from memory: only to read K and V, and for all steps. A
// tenth of the segments are faster, so that what disturbs a machine now and then is left out.
Far time_far(const Kernels& kernels, const Memory& memory, Queries& q, int64_t channels) {
  std::vector<double> times[2];
  uint64_t read = 0;
  for (int pass = 0; pass < 4; ++pass) {
    for (int64_t first = 0; first < kCacheKeys; first += kSegment) {
      const bool attends = (first / kSegment + pass) % 2 != 0;
      const double start = now();
      if (attends) {
        for (int64_t j = first; j < first + kSegment; j += kKeyBlock) {
          kernels.value_scales(memory.value_scale.data() + j, kKeyBlock, q.value_log2,
                               q.value_inverse);
          kernels.few_scores(memory.key.data() + j * channels, channels, channels, q.codes, q.count,
                             kKeyBlock, q.scores);
          kernels.few_softmax(q.block(memory.key_scale.data() + j));
          kernels.few_accumulate(memory.value.data() + j * channels, channels, channels, q.weights,
                                 q.count, q.keep, q.gain, q.output);
        }
      } else {
        for (int64_t i = first * channels; i < (first + kSegment) * channels; i += 64) {
          uint64_t line[2];
          memcpy(line, memory.key.data() + i, 8);
          memcpy(line + 1, memory.value.data() + i, 8);
          read ^= line[0] ^ line[1];
        }
      }
      times[attends].push_back((now() - start) / kSegment * 1e9);
    }
  }
  volatile uint64_t sink = read;
  (void)sink;
  for (auto& t : times) std::sort(t.begin(), t.end());
  return {times[0][times[0].size() / 10], times[1][times[1].size() / 10]};
}

}  // namespace

void print_few(const char* only) {
  const Memory memory(kCacheKeys);
  printf(
      "\nA few queries, ns per key. near: in cache; lanes: the same with up to 16 queries side "
      "by side;\nfar: K and V of int8 from memory, with what it takes only to read them\n");
  printf("%-11s %4s %2s | %6s %6s %6s %6s %6s %6s | %6s %6s | %7s %7s %7s\n", "isa", "D", "q",
         "scales", "QK", "soft", "PV", "near", "lanes", "far", "read", "float QK", "soft", "PV");
  for (const qfa_isa isa : {QFA_ISA_AVX2, QFA_ISA_AVXVNNI, QFA_ISA_AVX512VNNI, QFA_ISA_AMXINT8,
                            QFA_ISA_NEONDOT, QFA_ISA_NEONI8MM}) {
    if (qfa_isa_usable(isa) == 0) continue;
    if (only != nullptr && strcmp(only, qfa_isa_name(isa)) != 0) continue;
    const Kernels kernels = kernels_for(isa);
    for (const int64_t channels : {64, 128}) {
      const double lanes = time_lanes(kernels, memory, channels);
      for (const int count : {1, 2, 4, 8}) {
        Queries q(count);
        const Steps near = time_codes(kernels, memory, q, channels);
        const Far far = time_far(kernels, memory, q, channels);
        const Steps floats = time_floats(kernels, q, channels);
        printf(
            "%-11s %4d %2d | %6.2f %6.2f %6.2f %6.2f %6.2f %6.2f | %6.2f %6.2f | %7.2f %7.2f "
            "%7.2f\n",
            qfa_isa_name(isa), static_cast<int>(channels), count, near.scales, near.scores,
            near.softmax, near.accumulate, near.all(), lanes, far.attend, far.read, floats.scores,
            floats.softmax, floats.accumulate);
      }
    }
  }
}

}  // namespace qfa::bench
