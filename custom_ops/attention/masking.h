// Which keys the queries of a block see, and what is added to their scores.
#ifndef QFA_ATTENTION_MASKING_H_
#define QFA_ATTENTION_MASKING_H_

#include "attention/plan.h"
#include "attention/rows.h"

namespace qfa {

// Keys that each lane may reach by the causal rule and by T: those before limit[lane].
struct Reach {
  int64_t limit[kLanes];
  int64_t least, most;  // over the lanes that hold a row
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

// Classifies keys first..first + count - 1 by mask and bias alone. When they are mixed,
// scratch.tile holds what is added to each score, -inf where the key is masked. Reads no column
// beyond.
TileKind read_tile(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                   const Averaging& averaging, int64_t first, int64_t count,
                   const WorkerScratch& scratch);

}  // namespace qfa

#endif  // QFA_ATTENTION_MASKING_H_
