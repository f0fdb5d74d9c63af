// Runs AMX machine code on x86-64 processors without AMX: the illegal-instruction signal is caught,
// the instruction is decoded and executed on tiles in memory. What is tested is the compiled kernel
// itself.
//
// Stricter than it needs to be: anything that a real processor would refuse ends the program.
#ifndef QFA_TESTS_AMX_EMULATOR_H_
#define QFA_TESTS_AMX_EMULATOR_H_

#include <stdint.h>

namespace qfa::test {

struct AmxCounts {
  int64_t configs, releases, zeros, loads, stores, products;
};

// Whether AMX kernels can be run here, natively or emulated. Installs the signal handler on first
// use where it is needed. False on processors without the vector instructions that AMX kernels also
// use.
bool amx_available();

// Whether amx_available() had to install the emulator.
bool amx_is_emulated();

// Instructions that were emulated on all threads since the start.
AmxCounts amx_counts();

// Whether this thread holds a tile configuration; always false when AMX is native.
bool amx_is_configured();

}  // namespace qfa::test

#endif  // QFA_TESTS_AMX_EMULATOR_H_
