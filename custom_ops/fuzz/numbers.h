// Contents of tensors: numbers of several temperaments, from a seed.
#ifndef QFA_FUZZ_NUMBERS_H_
#define QFA_FUZZ_NUMBERS_H_

#include <stdint.h>
#include <string.h>

#include "qfa/qfa.h"

namespace qfa::fuzz {

enum class Temper {
  kPlain,    // around 1
  kWide,     // of every magnitude, all finite
  kExtreme,  // the largest numbers of either sign
  kZero,
  kBroken,  // plain with NaN, infinities and denormals among them
  kTempers
};

class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u | 1) {}

  uint32_t bits() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<uint32_t>((state_ * 0x2545f4914f6cdd1du) >> 32);
  }

  // Pattern of one number: sign, exponent, fraction.
  uint32_t pattern(Temper temper, uint32_t exponent_bits, uint32_t fraction_bits) {
    const uint32_t random = bits();
    const uint32_t sign = (random & 1) << (exponent_bits + fraction_bits);
    const uint32_t fraction = (random >> 8) & ((1u << fraction_bits) - 1);
    const uint32_t largest = (1u << exponent_bits) - 1, one = largest / 2;
    uint32_t exponent = one - ((random >> 1) & 3);
    switch (temper) {
      case Temper::kWide:
        exponent = (bits() >> 8) % largest;
        break;
      case Temper::kExtreme:
        return sign | largest << fraction_bits | fraction;  // one less is the largest number
      case Temper::kZero:
        return sign;
      case Temper::kBroken:
        if ((random >> 3 & 31) == 0) {
          const uint32_t kind = bits() & 3;
          if (kind == 0) return sign | largest << fraction_bits;                 // an infinity
          if (kind == 1) return sign | largest << fraction_bits | fraction | 1;  // NaN
          if (kind == 2) return sign | fraction;                                 // a denormal
          exponent = largest - 1;
        }
        break;
      default:
        break;
    }
    return sign | exponent << fraction_bits | fraction;
  }

  void fill(void* data, size_t bytes, qfa_dtype dtype, Temper temper) {
    uint8_t* target = static_cast<uint8_t*>(data);
    const uint32_t exponent_bits = dtype == QFA_FLOAT16 ? 5 : 8;
    const uint32_t fraction_bits = dtype == QFA_FLOAT16 ? 10 : (dtype == QFA_BFLOAT16 ? 7 : 23);
    const size_t size = dtype == QFA_FLOAT32 ? 4 : 2;
    // kExtreme names the exponent above the numbers: one step down is the largest of them.
    const uint32_t down = temper == Temper::kExtreme ? 1u << fraction_bits : 0;
    for (size_t i = 0; i + size <= bytes; i += size) {
      const uint32_t number = pattern(temper, exponent_bits, fraction_bits) - down;
      const uint16_t narrow = static_cast<uint16_t>(number);
      memcpy(target + i, size == 4 ? static_cast<const void*>(&number) : &narrow, size);
    }
  }

  float plain() {
    const uint32_t number = pattern(Temper::kPlain, 8, 23);
    float value;
    memcpy(&value, &number, 4);
    return value;
  }

 private:
  uint64_t state_;
};

}  // namespace qfa::fuzz

#endif  // QFA_FUZZ_NUMBERS_H_
