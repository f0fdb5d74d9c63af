#include "amx_emulator.h"

#include "kernels/arch.h"

#if defined(__x86_64__) && defined(__linux__)

#include <signal.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>

namespace qfa::test {
namespace {

constexpr int kTiles = 8, kMostRows = 16, kMostRowBytes = 64;

struct Tiles {
  bool configured;
  uint16_t row_bytes[kTiles];
  uint8_t rows[kTiles];
  uint8_t data[kTiles][kMostRows][kMostRowBytes];
};

thread_local Tiles tiles;
std::atomic<int64_t> configs, releases, zeros, loads, stores, products;
bool installed = false;

[[noreturn]] void refuse(const char* reason) {
  const char* parts[] = {"AMX emulator: ", reason, "\n"};
  for (const char* part : parts) {
    if (write(2, part, strlen(part)) < 0) break;
  }
  _exit(70);
}

void require(bool condition, const char* reason) {
  if (!condition) refuse(reason);
}

enum Prefix { kNone = 0, k66 = 1, kF3 = 2, kF2 = 3 };

// One VEX instruction of map 0F38 with 128-bit length and W0, and its operands.
struct Instruction {
  uint8_t opcode, mod, reg, rm, source;
  Prefix prefix;
  uint64_t address;  // base plus displacement
  int64_t stride;    // scaled index register, 0 without one
  uint64_t length;
};

// The general registers in the order of their encoding.
uint64_t general(const ucontext_t& context, int number) {
  constexpr int kOrder[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                            REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return static_cast<uint64_t>(context.uc_mcontext.gregs[kOrder[number]]);
}

int64_t displacement(const uint8_t* code, int size) {
  if (size == 1) return static_cast<int8_t>(*code);
  int32_t value = 0;
  memcpy(&value, code, static_cast<size_t>(size));
  return value;
}

Instruction decode(const ucontext_t& context) {
  const uint64_t start = static_cast<uint64_t>(context.uc_mcontext.gregs[REG_RIP]);
  const uint8_t* code = reinterpret_cast<const uint8_t*>(start);
  require(code[0] == 0xc4, "an illegal instruction that is not AMX");
  require((code[1] & 0x1f) == 2, "an instruction outside map 0F38");
  require((code[2] & 0x84) == 0, "W or L is set");
  Instruction i = {};
  const int high_reg = (code[1] & 0x80) != 0 ? 0 : 8;
  const int high_index = (code[1] & 0x40) != 0 ? 0 : 8;
  const int high_base = (code[1] & 0x20) != 0 ? 0 : 8;
  i.source = static_cast<uint8_t>(~code[2] >> 3 & 15);
  i.prefix = static_cast<Prefix>(code[2] & 3);
  i.opcode = code[3];
  i.mod = code[4] >> 6;
  i.reg = static_cast<uint8_t>((code[4] >> 3 & 7) + high_reg);
  i.rm = static_cast<uint8_t>((code[4] & 7) + (i.mod == 3 ? high_base : 0));
  const uint8_t* next = code + 5;
  if (i.mod != 3) {
    int size = i.mod == 1 ? 1 : (i.mod == 2 ? 4 : 0);
    if (i.rm == 4) {
      const uint8_t sib = *next++;
      const int index = (sib >> 3 & 7) + high_index, base = (sib & 7) + high_base;
      if (index != 4) i.stride = static_cast<int64_t>(general(context, index)) << (sib >> 6);
      if ((sib & 7) == 5 && i.mod == 0) {
        size = 4;
      } else {
        i.address = general(context, base);
      }
    } else if (i.rm == 5 && i.mod == 0) {
      size = 4;
      i.address = start + static_cast<uint64_t>(next - code) + 4;
    } else {
      i.address = general(context, i.rm + high_base);
    }
    if (size != 0) i.address += static_cast<uint64_t>(displacement(next, size));
    next += size;
  }
  i.length = static_cast<uint64_t>(next - code);
  return i;
}

void load_config(uint64_t address) {
  uint8_t config[64];
  memcpy(config, reinterpret_cast<const void*>(address), 64);
  if (config[0] == 0) {
    memset(&tiles, 0, sizeof(tiles));
    return;
  }
  require(config[0] == 1, "a palette other than 1");
  require(config[1] == 0, "a start row");
  for (int i = 2; i < 16; ++i) require(config[i] == 0, "reserved bytes of the configuration");
  memset(&tiles, 0, sizeof(tiles));
  for (int t = 0; t < 16; ++t) {
    uint16_t bytes;
    memcpy(&bytes, config + 16 + 2 * t, 2);
    const uint8_t rows = config[48 + t];
    if (t >= kTiles) {
      require(bytes == 0 && rows == 0, "a ninth tile");
      continue;
    }
    require(bytes <= kMostRowBytes && rows <= kMostRows, "a tile that is too large");
    require((bytes == 0) == (rows == 0), "a tile with rows or columns but not both");
    tiles.row_bytes[t] = bytes;
    tiles.rows[t] = rows;
  }
  tiles.configured = true;
  ++configs;
}

void require_tile(int tile) {
  require(tiles.configured, "a tile instruction without a configuration");
  require(tile < kTiles && tiles.rows[tile] != 0, "a tile that is not configured");
}

void move_tile(const Instruction& i) {
  require(i.mod != 3 && i.rm == 4 && i.source == 0, "a tile move without base and index");
  require_tile(i.reg);
  for (int row = 0; row < tiles.rows[i.reg]; ++row) {
    char* memory = reinterpret_cast<char*>(i.address) + row * i.stride;
    uint8_t* tile = tiles.data[i.reg][row];
    const size_t bytes = tiles.row_bytes[i.reg];
    if (i.prefix == kF3) {
      memcpy(memory, tile, bytes);
    } else {
      memset(tile, 0, kMostRowBytes);
      memcpy(tile, memory, bytes);
    }
  }
  ++(i.prefix == kF3 ? stores : loads);
}

int32_t byte_value(uint8_t byte, bool is_signed) {
  return is_signed ? static_cast<int8_t>(byte) : byte;
}

// What all products ask of their tiles.
void require_factors(const Instruction& i) {
  const int sum = i.reg, a = i.rm, b = i.source;
  require(i.mod == 3, "a product with memory");
  require_tile(sum);
  require_tile(a);
  require_tile(b);
  require(sum != a && sum != b && a != b, "a product of a tile with itself");
  require(tiles.rows[sum] == tiles.rows[a], "rows of sum and first factor differ");
  require(tiles.row_bytes[sum] == tiles.row_bytes[b], "columns of sum and second factor differ");
  require(tiles.row_bytes[a] == 4 * tiles.rows[b], "depths of the factors differ");
  ++products;
}

float bfloat_value(const uint8_t* bytes) {
  uint16_t upper;
  memcpy(&upper, bytes, 2);
  const uint32_t bits = static_cast<uint32_t>(upper) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// Of bfloat16. The order of the sums is one of many that processors may have.
void multiply_bfloats(const Instruction& i) {
  require_factors(i);
  require(i.prefix == kF3, "an unknown product of floats");
  const int sum = i.reg, a = i.rm, b = i.source;
  for (int m = 0; m < tiles.rows[sum]; ++m) {
    for (int n = 0; n < tiles.row_bytes[sum] / 4; ++n) {
      float total;
      memcpy(&total, &tiles.data[sum][m][4 * n], 4);
      for (int k = 0; k < tiles.row_bytes[a] / 4; ++k) {
        for (int half = 0; half < 2; ++half) {
          total += bfloat_value(&tiles.data[a][m][4 * k + 2 * half]) *
                   bfloat_value(&tiles.data[b][k][4 * n + 2 * half]);
        }
      }
      memcpy(&tiles.data[sum][m][4 * n], &total, 4);
    }
  }
}

void multiply(const Instruction& i) {
  require_factors(i);
  const int sum = i.reg, a = i.rm, b = i.source;
  const bool a_signed = i.prefix == kF2 || i.prefix == kF3;
  const bool b_signed = i.prefix == kF2 || i.prefix == k66;
  for (int m = 0; m < tiles.rows[sum]; ++m) {
    for (int n = 0; n < tiles.row_bytes[sum] / 4; ++n) {
      int32_t total;
      memcpy(&total, &tiles.data[sum][m][4 * n], 4);
      for (int k = 0; k < tiles.row_bytes[a]; ++k) {
        total += byte_value(tiles.data[a][m][k], a_signed) *
                 byte_value(tiles.data[b][k / 4][4 * n + k % 4], b_signed);
      }
      memcpy(&tiles.data[sum][m][4 * n], &total, 4);
    }
  }
}

void on_illegal_instruction(int, siginfo_t*, void* raw) {
  ucontext_t& context = *static_cast<ucontext_t*>(raw);
  const Instruction i = decode(context);
  if (i.opcode == 0x49 && i.prefix == kNone && i.mod != 3 && i.reg == 0) {
    load_config(i.address);
  } else if (i.opcode == 0x49 && i.prefix == kNone && i.mod == 3 && i.reg == 0 && i.rm == 0) {
    memset(&tiles, 0, sizeof(tiles));
    ++releases;
  } else if (i.opcode == 0x49 && i.prefix == kF2 && i.mod == 3 && i.rm == 0) {
    require_tile(i.reg);
    memset(tiles.data[i.reg], 0, sizeof(tiles.data[i.reg]));
    ++zeros;
  } else if (i.opcode == 0x4b && i.prefix != kNone) {
    move_tile(i);
  } else if (i.opcode == 0x5e) {
    multiply(i);
  } else if (i.opcode == 0x5c) {
    multiply_bfloats(i);
  } else {
    refuse("an instruction that is not known here");
  }
  context.uc_mcontext.gregs[REG_RIP] += static_cast<greg_t>(i.length);
}

}  // namespace

bool amx_available() {
  if (is_isa_supported(QFA_ISA_AMXINT8)) return true;
  if (!is_isa_supported(QFA_ISA_AVX512BF16)) return false;
  if (!installed) {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = on_illegal_instruction;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    installed = sigaction(SIGILL, &action, nullptr) == 0;
  }
  return installed;
}

bool amx_is_emulated() { return installed; }

AmxCounts amx_counts() { return {configs, releases, zeros, loads, stores, products}; }

bool amx_is_configured() { return tiles.configured; }

}  // namespace qfa::test

#else

namespace qfa::test {

bool amx_available() { return is_isa_supported(QFA_ISA_AMXINT8); }
bool amx_is_emulated() { return false; }
AmxCounts amx_counts() { return {}; }
bool amx_is_configured() { return false; }

}  // namespace qfa::test

#endif
