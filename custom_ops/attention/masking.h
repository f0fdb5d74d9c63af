// Which keys the queries of a block see, and what is added to their scores.
#ifndef QFA_ATTENTION_MASKING_H_
#define QFA_ATTENTION_MASKING_H_

#include "attention/plan.h"
#include "attention/rows.h"

namespace qfa {

// Keys that each lane may reach by position and length: from first[lane] to before limit[lane],
// both 0 where there is none.
struct Reach {
  int64_t first[kLanes], limit[kLanes];
  int64_t from, most;  // all reached keys lie from `from` to before `most`
  int64_t latest;      // the greatest first[lane]
  int64_t least;       // the smallest limit[lane] of a lane that holds a row

  // The chunks that hold them; none where `from` is not before `most`.
  int64_t first_chunk() const { return from / QFA_KEY_CHUNK; }
  int64_t end_chunk() const { return (most + QFA_KEY_CHUNK - 1) / QFA_KEY_CHUNK; }
};

Reach reach_of(const Plan& plan, const QueryRows& rows);

enum class TileKind {
  kHidden,  // no lane sees any of these keys
  kPlain,   // every lane sees all of them, and nothing is added
  kMixed    // the tile tells
};

// Lanes whose row sees keys with biases at or below kLowestBias, and no others. Their scores count
// as zero, and those biases too: the row is the plain mean of the values at those keys.
struct Averaging {
  bool lane[kLanes];
};

// Looks for them among the lanes that no key has reached: those whose `sums` of weights are zero.
// True if there is one.
bool find_averaging(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                    const Reach& reach, const float* sums, const WorkerScratch& scratch,
                    Averaging* averaging);

// Classifies keys first..first + count - 1 by mask, bias and the start of each lane's reach, not by
// its end. When they are mixed, scratch.tile holds what is added to each score, -inf where the key
// is masked: by key and lane, or by query and key where queries are few. Reads no column beyond.
TileKind read_tile(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                   const Reach& reach, const Averaging& averaging, int64_t first, int64_t count,
                   const WorkerScratch& scratch);

}  // namespace qfa

#endif  // QFA_ATTENTION_MASKING_H_
