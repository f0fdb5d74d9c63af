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

// Exporters mask with the lowest finite number as often as with -inf. A bias at or below
// kLowestBias masks a key like -inf does, except in a row that has no other key to see: there the
// bias swallows every score, so that the row is the plain mean of the values at those keys.
inline constexpr float kLowestBias = -0x1p20f;

// Lanes that hold such a row. Their scores count as zero.
struct Averaging {
  bool lane[kLanes];
};

Averaging find_averaging(const Plan& plan, const QueryRows& rows, const Reach& reach);

// Classifies keys first..first + count - 1 by mask and bias alone, and fills tile[64][kLanes] when
// they are mixed: what is added to each score, -inf where the key is masked. Reads no column
// beyond.
TileKind read_tile(const Plan& plan, const QueryRows& rows, const Averaging& averaging,
                   int64_t first, int64_t count, float* tile);

}  // namespace qfa

#endif  // QFA_ATTENTION_MASKING_H_
