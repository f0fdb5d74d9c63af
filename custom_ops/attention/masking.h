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

// Classifies keys first..first + count - 1 by mask and bias alone, and fills tile[64][kLanes] when
// they are mixed: what is added to each score, -inf where the key is masked. Reads no column
// beyond.
TileKind read_tile(const Plan& plan, const QueryRows& rows, int64_t first, int64_t count,
                   float* tile);

}  // namespace qfa

#endif  // QFA_ATTENTION_MASKING_H_
