// Memory: what the operator may touch, what it asks for, and what it does when there is none.
#include <stdlib.h>
#include <string.h>

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

qfa_status run(const qfa_attention& a, qfa_isa isa, const qfa_allocator* allocator) {
  return run_attention(&a, kernels_for(isa), nullptr, allocator);
}

QFA_TEST(scratch_content_and_alignment_do_not_matter) {
  for (const qfa_isa isa : testable_isas()) {
    for (const int64_t channels : {13, 40, 64}) {
      Problem p = Problem::random({2, 2, 1, 37, 70, channels, channels}, 1);
      p.causal = true;
      p.bias.assign(static_cast<size_t>(2 * 2 * 37 * 70), 0.25f);
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

QFA_TEST(no_byte_outside_the_tensors_is_touched) {
  for (const qfa_isa isa : testable_isas()) {
    for (const Guard guard : {Guard::kAfter, Guard::kBefore}) {
      for (const qfa_dtype dtype : {QFA_FLOAT32, QFA_FLOAT16}) {
        for (const int64_t channels : {1, 13, 40, 64, 65}) {
          Problem p = Problem::random({1, 2, 1, 35, 67, channels, channels}, 2, dtype);
          p.mask.assign(2 * 35 * 67, 1);
          for (size_t i = 0; i < p.mask.size(); i += 3) p.mask[i] = 0;
          p.bias.assign(2 * 35 * 67, 0.5f);
          p.k_mean.assign(static_cast<size_t>(channels), 0.125f);
          const std::vector<float> expected = p.run(isa);
          const std::vector<uint16_t> expected_half = p.output_half;
          std::vector<float> unused(expected.size());
          qfa_attention a = p.request(unused.data());
          const size_t element = dtype == QFA_FLOAT16 ? 2 : 4;
          const auto copy = [&](const qfa_tensor& t, size_t count) {
            return Guarded(t.data, count * element, guard);
          };
          Guarded query = copy(a.query, p.query.size()), key = copy(a.key, p.key.size()),
                  value = copy(a.value, p.value.size());
          Guarded mask(p.mask.data(), p.mask.size(), guard);
          Guarded bias(p.bias.data(), 4 * p.bias.size(), guard);
          Guarded mean(p.k_mean.data(), 4 * p.k_mean.size(), guard);
          Guarded output(expected.size() * element, guard);
          a.query.data = query.data();
          a.key.data = key.data();
          a.value.data = value.data();
          a.mask.data = mask.data();
          a.bias.data = bias.data();
          a.k_mean = mean.as<float>();
          a.output = output.data();
          CHECK(run(a, isa, nullptr) == QFA_OK);
          const void* reference =
              dtype == QFA_FLOAT16 ? static_cast<const void*>(expected_half.data()) : nullptr;
          if (reference == nullptr) reference = expected.data();
          CHECK_THAT(memcmp(output.data(), reference, output.size()) == 0, "%s D %d",
                     qfa_isa_name(isa), static_cast<int>(channels));
        }
      }
    }
  }
}

QFA_TEST(unaligned_tensors) {
  for (const qfa_isa isa : testable_isas()) {
    const Problem p = Problem::random({1, 2, 1, 20, 40, 24, 24}, 3);
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
}

QFA_TEST(tensors_beyond_two_gigabytes_of_offsets) {
  // Rows a long way apart: address space is reserved, and only the rows themselves have memory.
  constexpr int64_t kStride = int64_t{3} << 28;  // floats: 3 GiB between rows
  const size_t bytes = static_cast<size_t>(kStride) * 4 * 2 + 4096;
  char* map = static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (map == MAP_FAILED) {
    printf("     not tested: no address space for %zu bytes\n", bytes);
    return;
  }
  const Problem p = Problem::random({1, 1, 1, 2, 3, 16, 16}, 6);
  const std::vector<float> expected = p.run(QFA_ISA_AUTO);
  for (int64_t t = 0; t < 3; ++t) {
    memcpy(map + 4 * kStride * t, p.key.data() + 16 * t, 64);
  }
  std::vector<float> output(expected.size());
  qfa_attention a = p.request(output.data());
  a.key.data = map;
  a.key.row_stride = kStride;
  CHECK(qfa_attention_run(&a, QFA_ISA_AUTO, nullptr, nullptr, nullptr) == QFA_OK);
  CHECK(same_bits(output, expected));
  munmap(map, bytes);
}

}  // namespace
}  // namespace qfa::test

QFA_TEST_MAIN
