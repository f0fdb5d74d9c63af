// Joins of chunks: see join_states_fn, join_lanes_fn and join_rows_fn.
#ifndef QFA_KERNELS_LANES_JOINS_H_
#define QFA_KERNELS_LANES_JOINS_H_

#include <stdint.h>

#include "kernels/kernels.h"
#include "kernels/lanes/lanes.h"

namespace qfa {
namespace {

template <class Vector>
void join_state_lanes(const JoinBlock& b) {
  const Vector lowest = Vector::spread(-__builtin_inff()), zero = Vector::spread(0.0f);
  for (int lane = 0; lane < b.vectors * kVectorLanes; lane += Vector::kWidth) {
    const Vector before = Vector::load(b.running_max + lane),
                 part = Vector::load(b.part_max + lane);
    const Vector joined = Vector::select(Vector::less(before, part), part, before);
    const Vector base = Vector::select(Vector::equal(joined, lowest), zero, joined);
    const Vector keep = exp2_lanes(before - base), gain = exp2_lanes(part - base);
    const Vector sum = Vector::load(b.running_sum + lane);
    joined.store(b.running_max + lane);
    keep.store(b.keep + lane);
    gain.store(b.gain + lane);
    Vector::fma(sum, keep, gain * Vector::load(b.part_sum + lane)).store(b.running_sum + lane);
  }
}

template <class Vector>
QFA_INLINE void join_run(const float* part, Vector keep, Vector gain, float* total) {
  Vector::fma(gain, Vector::load(part), Vector::load(total) * keep).store(total);
}

template <class Vector>
void join_channel_lanes(const float* part, int64_t channels, const float* keep, const float* gain,
                        int vectors, float* total) {
  for (int64_t c = 0; c < channels; ++c, part += kLanes, total += kLanes) {
    for (int lane = 0; lane < vectors * kVectorLanes; lane += Vector::kWidth) {
      join_run(part + lane, Vector::load(keep + lane), Vector::load(gain + lane), total + lane);
    }
  }
}

template <class Vector>
void join_query_rows(const float* part, int64_t channels, int count, const float* keep,
                     const float* gain, float* total) {
  for (int q = 0; q < count; ++q) {
    const Vector kept = Vector::spread(keep[q]), gained = Vector::spread(gain[q]);
    for (int64_t c = 0; c < channels; c += Vector::kWidth) {
      join_run(part + q * channels + c, kept, gained, total + q * channels + c);
    }
  }
}

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_LANES_JOINS_H_
