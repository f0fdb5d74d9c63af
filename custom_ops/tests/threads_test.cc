// Results never depend on how many threads compute them, or on how many calls run at the same time.
#include <atomic>
#include <string>
#include <thread>

#include "cache.h"
#include "check.h"
#include "problem.h"

namespace qfa::test {
namespace {

// Draws task numbers from a counter on `threads` threads.
void run_on_threads(void* context, qfa_task task, void* argument, size_t count) {
  const int threads = *static_cast<int*>(context);
  std::atomic<size_t> next{0};
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    pool.emplace_back([&] {
      for (size_t i = next++; i < count; i = next++) task(argument, i);
    });
  }
  for (std::thread& thread : pool) thread.join();
}

// All tasks on this thread, last one first.
void run_backwards(void*, qfa_task task, void* argument, size_t count) {
  while (count > 0) task(argument, --count);
}

std::vector<Problem> problems() {
  std::vector<Problem> all;
  all.push_back(Problem::random({2, 4, 2, 70, 130, 32, 32}, 1));
  all.push_back(Problem::random({1, 5, 5, 100, 100, 16, 16}, 2));
  all.back().causal = true;
  all.push_back(Problem::random({1, 8, 1, 1, 300, 64, 64}, 3));
  // Few heads and several chunks: threads share the keys of a head.
  all.push_back(Problem::random({1, 1, 1, 1, 5000, 16, 16}, 4));
  all.push_back(Problem::random({1, 4, 2, 3, 2100, 16, 24}, 5));
  all.back().causal = true;
  all.back().causal_offset = 2000;
  all.push_back(Problem::random({2, 1, 1, 16, 1100, 16, 16}, 6, QFA_FLOAT16));
  all.back().kv_length = {1090, 40};
  all.push_back(Problem::random({1, 1, 1, 50, 2100, 16, 16}, 7));
  const size_t quantized = all.size();
  for (size_t i = 0; i < quantized; ++i) {
    all.push_back(all[i]);
    all.back().compute = QFA_COMPUTE_FLOAT;
  }
  return all;
}

QFA_TEST(same_bits_for_any_number_of_threads) {
  for (const Problem& p : problems()) {
    for (const qfa_isa isa : testable_isas()) {
      const std::vector<float> serial = p.run(isa);
      for (int threads : {1, 2, 3, 8}) {
        const qfa_executor executor = {&threads, run_on_threads, threads};
        CHECK_THAT(same_bits(p.run(isa, &executor), serial), "%s %d threads", qfa_isa_name(isa),
                   threads);
        const qfa_executor backwards = {nullptr, run_backwards, threads};
        CHECK(same_bits(p.run(isa, &backwards), serial));
      }
    }
  }
}

// Appends to a buffer in place, by several threads that share the keys of its one head: those who
// read the new tokens must see them as the one who wrote them.
QFA_TEST(same_bits_from_a_cache_in_place) {
  constexpr int64_t kCapacity = 2 * QFA_KEY_CHUNK + 90;
  for (const CacheFormat& format : cache_formats()) {
    for (const int64_t added : {1, 5, 16, 40}) {
      const int64_t before = kCapacity - added;
      Problem filling = Problem::random({1, 2, 1, 1, before, 32, 32}, 8);
      Problem step = Problem::random({1, 2, 1, added, added, 32, 32}, 9);
      filling.compute = step.compute = format.compute();
      const std::vector<float> scales(32, 0.03f);
      const auto run = [&](const Problem& p, int64_t length, Cache& cache,
                           const qfa_executor* executor) {
        std::vector<float> output(static_cast<size_t>(p.output_count()), -12345.0f);
        qfa_attention a = p.request(output.data());
        set_cache(a, format, &cache, &cache);
        a.kv_shared = a.queries_at_end = a.is_causal = 1;
        a.kv_length = &length;
        a.kv_length_count = 1;
        if (format.per_channel) a.k_channel_scale = a.v_channel_scale = scales.data();
        const char* message = "";
        CHECK_THAT(qfa_attention_run(&a, QFA_ISA_AUTO, executor, nullptr, &message) == QFA_OK,
                   "%s: %s", format.name, message);
        return output;
      };
      Cache filled(format, 1, 1, kCapacity, 32, 32);
      run(filling, before, filled, nullptr);
      Cache serial = filled;
      const std::vector<float> expected = run(step, kCapacity, serial, nullptr);
      for (int threads : {2, 3, 8}) {
        const qfa_executor executor = {&threads, run_on_threads, threads};
        Cache parallel = filled;
        CHECK_THAT(same_bits(run(step, kCapacity, parallel, &executor), expected),
                   "%s %d new, %d threads", format.name, static_cast<int>(added), threads);
        CHECK(parallel.keys == serial.keys && parallel.values == serial.values);
      }
    }
  }
}

QFA_TEST(nonsense_thread_counts) {
  const Problem p = problems()[0];
  const std::vector<float> serial = p.run(QFA_ISA_AUTO);
  for (const int32_t threads : {INT32_MIN, -1, 0, 100000}) {
    const qfa_executor executor = {nullptr, run_backwards, threads};
    CHECK(same_bits(p.run(QFA_ISA_AUTO, &executor), serial));
    const qfa_executor none = {nullptr, nullptr, threads};
    CHECK(same_bits(p.run(QFA_ISA_AUTO, &none), serial));
  }
}

QFA_TEST(calls_at_the_same_time) {
  const std::vector<Problem> all = problems();
  std::vector<std::vector<float>> expected;
  for (const Problem& p : all) expected.push_back(p.run(QFA_ISA_AUTO));
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (size_t caller = 0; caller < 16; ++caller) {
    callers.emplace_back([&, caller] {
      const Problem p = all[caller % all.size()];
      for (int i = 0; i < 3; ++i) {
        if (!same_bits(p.run(QFA_ISA_AUTO), expected[caller % all.size()])) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0);
}

QFA_TEST(messages_belong_to_their_thread) {
  qfa_attention bad = {};
  const char* message = nullptr;
  CHECK(qfa_attention_run(&bad, QFA_ISA_SCALAR, nullptr, nullptr, &message) ==
        QFA_INVALID_ARGUMENT);
  const std::string before = message;
  std::thread([] {
    const char* other = nullptr;
    CHECK(qfa_attention_run(nullptr, QFA_ISA_SCALAR, nullptr, nullptr, &other) != QFA_OK);
  }).join();
  CHECK(before == message);
}

}  // namespace
}  // namespace qfa::test

QFA_TEST_MAIN
