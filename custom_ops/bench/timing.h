// Clocks of the benchmark.
#ifndef QFA_BENCH_TIMING_H_
#define QFA_BENCH_TIMING_H_

#include <math.h>

#include <chrono>

namespace qfa::bench {

inline double now() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

// The fastest of several runs, in seconds.
template <typename F>
double best_of(int runs, const F& run) {
  double best = 1e9;
  for (int i = 0; i < runs; ++i) {
    const double start = now();
    run();
    best = fmin(best, now() - start);
  }
  return best;
}

// Nanoseconds of a step that is too short to be timed alone.
template <typename F>
double time_step(const F& step, int repeats = 2000) {
  const auto all = [&] {
    for (int i = 0; i < repeats; ++i) step();
  };
  return best_of(7, all) / repeats * 1e9;
}

}  // namespace qfa::bench

#endif  // QFA_BENCH_TIMING_H_
