// Memory: what the operator may touch, what it asks for, and what it does when there is none.
#include <stdlib.h>
#include <string.h>

#include <memory>

#include "amx_emulator.h"
#include "attention/run.h"
#include "check.h"
#include "guarded.h"
#include "kernels/kernels.h"
#include "problem.h"

namespace qfa::test {
namespace {

// Hands out memory filled with `fill`, `offset` bytes off any good alignment, between guard pages.
struct Allocator {
  int fill = 0;
  size_t offset = 0;
  int64_t live = 0, calls = 0;
  size_t largest = 0;
  bool refuse = false;
  Guarded* block = nullptr;

  qfa_allocator interface() {
    return {this,
            [](void* context, size_t bytes) -> void* {
              Allocator& self = *static_cast<Allocator*>(context);
              ++self.calls;
              if (bytes > self.largest) self.largest = bytes;
              if (self.refuse) return nullptr;
              ++self.live;
              self.block = new Guarded(bytes + self.offset, Guard::kBefore);
              memset(self.block->data(), self.fill, self.block->size());
              return self.block->data() + self.offset;
            },
            [](void* context, void*) {
              Allocator& self = *static_cast<Allocator*>(context);
              --self.live;
              delete self.block;
            }};
  }
};

// Enough queries to encode the keys first; fewer, in lanes; a few; and the latter with several
// chunks of keys.
const Extents kWaysToRead[] = {{2, 2, 1, 37, 70, 13, 13},   {2, 2, 1, 37, 70, 64, 40},
                               {1, 2, 1, 12, 70, 40, 13},   {1, 2, 1, 3, 70, 13, 40},
                               {1, 2, 1, 12, 1100, 40, 40}, {1, 2, 1, 3, 2100, 40, 40}};

qfa_status run(const qfa_attention& a, qfa_isa isa, const qfa_allocator* allocator) {
  return run_attention(&a, kernels_for(isa), nullptr, allocator);
}

QFA_TEST(scratch_content_and_alignment_do_not_matter) {
  for (const qfa_isa isa : testable_isas()) {
    for (const Extents& e : kWaysToRead) {
      for (const qfa_compute compute : {QFA_COMPUTE_INT8, QFA_COMPUTE_FLOAT}) {
        Problem p = Problem::random(e, 1);
        p.compute = compute;
        p.causal = true;
        p.causal_offset = e.keys - e.queries;
        p.bias.assign(static_cast<size_t>(e.batch * e.heads * e.queries * e.keys), 0.25f);
        const std::vector<float> expected = p.run(isa);
        for (const int fill : {0x00, 0x7f, 0xff}) {  // 0x7f and 0xff make NaN of both signs
          for (const size_t offset : {size_t{0}, size_t{1}, size_t{33}}) {
            Allocator allocator;
            allocator.fill = fill;
            allocator.offset = offset;
            const qfa_allocator interface = allocator.interface();
            std::vector<float> output(expected.size());
            const qfa_attention a = p.request(output.data());
            CHECK(run(a, isa, &interface) == QFA_OK);
            CHECK(allocator.calls == 1 && allocator.live == 0);
            CHECK_THAT(same_bits(output, expected), "%s fill %d", qfa_isa_name(isa), fill);
          }
        }
      }
    }
  }
}

// The same request with every tensor in a buffer of its own, between forbidden pages.
void check_guarded(const Problem& p, qfa_isa isa, Guard guard) {
  const std::vector<float> expected = p.run(isa);
  const std::vector<uint16_t> expected_half = p.output_half;
  std::vector<float> unused(expected.size());
  qfa_attention a = p.request(unused.data());
  const bool half = p.dtype != QFA_FLOAT32;
  const size_t element = half ? 2 : 4;
  std::vector<std::unique_ptr<Guarded>> buffers;
  const auto guarded = [&](const void* content, size_t bytes) -> void* {
    if (content == nullptr) return nullptr;
    buffers.push_back(std::make_unique<Guarded>(content, bytes, guard));
    return buffers.back()->data();
  };
  // Past and present rows of all heads lie in turns; only one head can be cut in two.
  const auto rows = [&](const qfa_tensor& t, int64_t count, int64_t channels) {
    return guarded(count == 0 ? nullptr : t.data, static_cast<size_t>(count * channels) * element);
  };
  a.query.data = guarded(a.query.data, p.query.size() * element);
  const int64_t heads = p.e.batch * p.e.kv_heads;
  CHECK(p.e.past == 0 || heads == 1);
  a.past_key.data = rows(a.past_key, p.e.past, p.e.channels);
  a.past_value.data = rows(a.past_value, p.e.past, p.e.value_channels);
  a.key.data = rows(a.key, heads * (p.e.keys - p.e.past), p.e.channels);
  a.value.data = rows(a.value, heads * (p.e.keys - p.e.past), p.e.value_channels);
  a.mask.data = guarded(a.mask.data, p.mask.size());
  a.bias.data = guarded(a.bias.data, 4 * p.bias.size());
  a.k_mean = static_cast<float*>(guarded(a.k_mean, 4 * p.k_mean.size()));
  a.sink = guarded(a.sink, 4 * p.sink.size());
  a.kv_length = static_cast<int64_t*>(guarded(a.kv_length, 8 * p.kv_length.size()));
  Guarded output(expected.size() * element, guard);
  a.output = output.data();
  Guarded key(p.key.size() * element, guard), value(p.value.size() * element, guard);
  const int64_t key_head = p.e.keys * p.e.channels, value_head = p.e.keys * p.e.value_channels;
  a.present_key = {key.data(), p.e.kv_heads * key_head, key_head, p.e.channels};
  a.present_value = {value.data(), p.e.kv_heads * value_head, value_head, p.e.value_channels};
  CHECK(run(a, isa, nullptr) == QFA_OK);
  const void* reference = half ? static_cast<const void*>(expected_half.data()) : expected.data();
  CHECK_THAT(memcmp(output.data(), reference, output.size()) == 0, "%s D %d", qfa_isa_name(isa),
             static_cast<int>(p.e.channels));
}

// Requests of two heads with everything that a request may point at.
void check_guarded_requests(qfa_isa isa, Guard guard, qfa_dtype dtype, int64_t queries,
                            int64_t channels, qfa_compute compute) {
  constexpr int64_t kKeys = 67;
  const size_t square = static_cast<size_t>(2 * queries * kKeys);
  Problem p = Problem::random({1, 2, 1, queries, kKeys, channels, channels}, 2, dtype);
  p.compute = compute;
  p.mask.assign(square, 1);
  for (size_t i = 0; i < p.mask.size(); i += 3) p.mask[i] = 0;
  p.bias.assign(square, 0.5f);
  p.k_mean.assign(static_cast<size_t>(channels), 0.125f);
  check_guarded(p, isa, guard);
  p.k_mean.clear();
  p.e.past = 30;
  p.sink.assign(2, 1.0f);
  p.kv_length.assign(1, 66);
  p.left_window = 20;
  p.softcap = 5.0f;
  check_guarded(p, isa, guard);
}

QFA_TEST(no_byte_outside_the_tensors_is_touched) {
  for (const qfa_isa isa : testable_isas()) {
    for (const Guard guard : {Guard::kAfter, Guard::kBefore}) {
      for (const qfa_dtype dtype : {QFA_FLOAT32, QFA_FLOAT16, QFA_BFLOAT16}) {
        for (const int64_t queries : {3, 12, 35}) {
          for (const int64_t channels : {1, 13, 40, 64, 65}) {
            for (const qfa_compute compute : {QFA_COMPUTE_INT8, QFA_COMPUTE_FLOAT}) {
              check_guarded_requests(isa, guard, dtype, queries, channels, compute);
            }
          }
        }
      }
    }
  }
}

QFA_TEST(unaligned_tensors) {
  for (const qfa_isa isa : testable_isas()) {
    for (const int64_t queries : {3, 12, 20}) {
      const Problem p = Problem::random({1, 2, 1, queries, 40, 24, 24}, 3);
      const std::vector<float> expected = p.run(isa);
      std::vector<char> query(4 * p.query.size() + 1), key(4 * p.key.size() + 1),
          value(4 * p.value.size() + 1), output(4 * expected.size() + 1);
      memcpy(query.data() + 1, p.query.data(), query.size() - 1);
      memcpy(key.data() + 1, p.key.data(), key.size() - 1);
      memcpy(value.data() + 1, p.value.data(), value.size() - 1);
      std::vector<float> unused(expected.size());
      qfa_attention a = p.request(unused.data());
      a.query.data = query.data() + 1;
      a.key.data = key.data() + 1;
      a.value.data = value.data() + 1;
      a.output = output.data() + 1;
      CHECK(run(a, isa, nullptr) == QFA_OK);
      CHECK(memcmp(output.data() + 1, expected.data(), output.size() - 1) == 0);
    }
  }
}

QFA_TEST(no_memory_is_a_status) {
  const Problem p = Problem::random({1, 2, 1, 20, 40, 16, 16}, 4);
  std::vector<float> output(static_cast<size_t>(p.output_count()), 7.0f);
  const qfa_attention a = p.request(output.data());
  Allocator allocator;
  allocator.refuse = true;
  const qfa_allocator interface = allocator.interface();
  const char* message = "";
  CHECK(qfa_attention_run(&a, QFA_ISA_AUTO, nullptr, &interface, &message) == QFA_OUT_OF_MEMORY);
  CHECK_THAT(strstr(message, "T 40") != nullptr, "%s", message);
  CHECK(output[0] == 7.0f);
  CHECK(qfa_attention_run(&a, QFA_ISA_AUTO, nullptr, nullptr, &message) == QFA_OK);
}

QFA_TEST(scratch_does_not_grow_with_queries_times_keys) {
  Allocator allocator;
  allocator.refuse = true;
  const qfa_allocator interface = allocator.interface();
  Problem p = Problem::random({1, 1, 1, 1, 1, 64, 64}, 5);
  std::vector<float> output(64);
  qfa_attention a = p.request(output.data());
  a.heads = a.kv_heads = 64;
  a.query_length = a.key_length = 1 << 20;
  // Nothing is read: the allocator refuses first. Tensors only have to have room.
  a.query.row_stride = a.key.row_stride = a.value.row_stride = 0;
  a.query.head_stride = a.key.head_stride = a.value.head_stride = 0;
  a.output_row_stride = a.output_head_stride = 0;
  CHECK(qfa_attention_run(&a, QFA_ISA_SCALAR, nullptr, &interface, nullptr) == QFA_OUT_OF_MEMORY);
  const size_t tokens = size_t{1} << 20;
  CHECK_THAT(allocator.largest < tokens * (64 + 64 + 16) + (1 << 20), "%zu", allocator.largest);
  a.compute = QFA_COMPUTE_FLOAT;
  CHECK(qfa_attention_run(&a, QFA_ISA_SCALAR, nullptr, &interface, nullptr) == QFA_OUT_OF_MEMORY);
  CHECK_THAT(allocator.largest < tokens * 4 * (64 + 64 + 1) + (1 << 20), "%zu", allocator.largest);
}

// Address space for rows that are far apart; only the rows themselves take memory. Null where there
// is none.
class Wide {
 public:
  explicit Wide(size_t bytes) : bytes_(bytes) {
    map_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                -1, 0);
  }
  ~Wide() {
    if (map_ != MAP_FAILED) munmap(map_, bytes_);
  }
  Wide(const Wide&) = delete;
  Wide& operator=(const Wide&) = delete;

  char* data() const { return map_ == MAP_FAILED ? nullptr : static_cast<char*>(map_); }

 private:
  size_t bytes_;
  void* map_;
};

QFA_TEST(tensors_beyond_two_gigabytes_of_offsets) {
  constexpr int64_t kStride = int64_t{3} << 28;  // floats: 3 GiB between rows
  constexpr size_t kBytes = static_cast<size_t>(kStride) * 4 * 2 + 4096;
  const Problem p = Problem::random({1, 1, 1, 3, 3, 16, 16}, 6);
  const Wide query(kBytes), key(kBytes), value(kBytes), output(kBytes), bias(kBytes);
  for (const Wide* wide : {&query, &key, &value, &output, &bias}) {
    if (wide->data() != nullptr) continue;
    printf("     not tested: no address space for %zu bytes\n", kBytes);
    return;
  }
  for (int64_t t = 0; t < 3; ++t) {
    memcpy(query.data() + 4 * kStride * t, p.query.data() + 16 * t, 64);
    memcpy(key.data() + 4 * kStride * t, p.key.data() + 16 * t, 64);
    memcpy(value.data() + 4 * kStride * t, p.value.data() + 16 * t, 64);
  }
  for (const qfa_isa isa : testable_isas()) {
    const std::vector<float> expected = p.run(isa);
    std::vector<float> got(expected.size());
    qfa_attention a = p.request(got.data());
    a.query.data = query.data();
    a.key.data = key.data();
    a.value.data = value.data();
    a.query.row_stride = a.key.row_stride = a.value.row_stride = kStride;
    a.output = output.data();
    a.output_row_stride = kStride;
    a.bias = {bias.data(), {0, 0, kStride, 1}};  // zeros
    CHECK(run(a, isa, nullptr) == QFA_OK);
    for (int64_t t = 0; t < 3; ++t) {
      memcpy(got.data() + 16 * t, output.data() + 4 * kStride * t, 64);
    }
    CHECK_THAT(same_bits(got, expected), "%s", qfa_isa_name(isa));
  }
}

#if defined(__x86_64__) && !defined(QFA_SANITIZED)
constexpr int kRuns = 100'000;
#else
constexpr int kRuns = 5'000;  // perhaps by an emulator
#endif

// Memory does not grow however often and with whatever shapes the operator runs.
QFA_TEST(many_runs_hold_no_memory) {
  const auto resident_pages = [] {
    long pages = 0, resident = 0;
    FILE* file = fopen("/proc/self/statm", "r");
    if (file == nullptr) return 0L;
    if (fscanf(file, "%ld %ld", &pages, &resident) != 2) resident = 0;
    fclose(file);
    return resident;
  };
  const Problem p = Problem::random({2, 4, 2, 20, 70, 16, 16}, 7);
  std::vector<float> output(static_cast<size_t>(p.output_count()));
  Random random(8);
  long settled = 0;
  for (int i = 0; i < kRuns; ++i) {
    qfa_attention a = p.request(output.data());
    a.batch = 1 + random.below(2);
    a.heads = random.below(2) != 0 ? 4 : 2;
    a.query_length = random.below(random.below(16) == 0 ? 20 : 3);
    a.key_length = random.below(random.below(16) == 0 ? 70 : 5);
    a.compute = random.below(2) != 0 ? QFA_COMPUTE_FLOAT : QFA_COMPUTE_INT8;
    if (random.below(8) == 0) a.scale = -1.0f / 0.0f;  // refused, with a message
    const qfa_status status = qfa_attention_run(&a, QFA_ISA_AUTO, nullptr, nullptr, nullptr);
    CHECK((status == QFA_OK) == (a.scale > 0.0f));
    if (i == kRuns / 10) settled = resident_pages();
  }
  const long grown = resident_pages() - settled;
#if defined(QFA_SANITIZED)
  (void)grown;  // sanitizers keep what is freed for a while, and find leaks by themselves
#else
  CHECK_THAT(grown < 256, "%ld pages more after the last run than after a tenth of them", grown);
#endif
}

}  // namespace
}  // namespace qfa::test

QFA_TEST_MAIN
