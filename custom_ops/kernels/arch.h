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
  kFeatureAmx = 1u << 2,         // AMX-TILE, AMX-INT8, AMX-BF16; this process may use tile data
  kFeatureAvxVnni = 1u << 3,     // AVX-VNNI, with 256-bit registers and no AVX-512
  kFeatureAvx512Bf16 = 1u << 4,  // AVX512-BF16
  kFeatureNeonDot = 1u << 5,     // FEAT_DotProd
  kFeatureNeonI8mm = 1u << 6,    // FEAT_I8MM
};

// Found once per process; the first call asks the kernel for the permission to use AMX tiles.
uint32_t supported_features();

// Whether an instruction set can be used with the given capabilities.
bool is_isa_supported(qfa_isa isa, uint32_t features = supported_features());

// The sets by the names that kernels.inc uses.
namespace sets {
inline constexpr qfa_isa scalar = QFA_ISA_SCALAR, avx2 = QFA_ISA_AVX2, avxvnni = QFA_ISA_AVXVNNI,
                         avx512vnni = QFA_ISA_AVX512VNNI, avx512bf16 = QFA_ISA_AVX512BF16,
                         amxint8 = QFA_ISA_AMXINT8, neondot = QFA_ISA_NEONDOT,
                         neoni8mm = QFA_ISA_NEONI8MM;
}  // namespace sets

// Every set, from the least to the best.
inline constexpr qfa_isa kInstructionSetOrder[] = {
    sets::scalar,     sets::avx2,    sets::avxvnni, sets::avx512vnni,
    sets::avx512bf16, sets::amxint8, sets::neondot, sets::neoni8mm};

// Whether `isa` may run the kernels of `part`: itself, and the sets that it stands on.
bool includes(qfa_isa isa, qfa_isa part);

// The best instruction set for the given capabilities.
qfa_isa best_isa(uint32_t features = supported_features());

// The instruction set of a name, or QFA_ISA_AUTO when there is none of that name.
qfa_isa isa_from_name(const char* name);

}  // namespace qfa

#endif  // QFA_KERNELS_ARCH_H_
