// What this processor and operating system can run.
#ifndef QFA_KERNELS_ARCH_H_
#define QFA_KERNELS_ARCH_H_

#include <stdint.h>

#include "qfa/qfa.h"

namespace qfa {

// Capabilities that a kernel may need. A bit is set only if the operating system saves the
// registers.
enum Feature : uint32_t {
  kFeatureAvx2 = 1u << 0,        // AVX2, FMA and F16C
  kFeatureAvx512Vnni = 1u << 1,  // AVX-512 F, BW, DQ, VL and VNNI
  kFeatureAmxInt8 = 1u << 2,     // AMX-TILE, AMX-INT8, and this process may use tile data
};

// Found once per process; the first call asks the kernel for the permission to use AMX tiles.
uint32_t supported_features();

// Whether an instruction set can be used with the given capabilities.
bool is_isa_supported(qfa_isa isa, uint32_t features = supported_features());

// The best instruction set for the given capabilities.
qfa_isa best_isa(uint32_t features = supported_features());

// The instruction set of a name, or QFA_ISA_AUTO when there is none of that name.
qfa_isa isa_from_name(const char* name);

}  // namespace qfa

#endif  // QFA_KERNELS_ARCH_H_
