#!/bin/sh
# Builds the fuzz target of the C interface with AddressSanitizer and UndefinedBehaviorSanitizer and
# runs it: under libFuzzer where a Clang has it (FUZZ_CXX names one), else on random inputs.
# Usage: run.sh [-B BUILD_DIR] [SECONDS]; 60 seconds by default. What fails is left in the build
# folder: crash-* is an input of libFuzzer.
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
build=${TMPDIR:-/tmp}/qfa-fuzz
if [ "${1:-}" = -B ]; then
  build=$2
  shift 2
fi
seconds=${1:-60}
mkdir -p "$build"
build=$(cd "$build" && pwd)

has_libfuzzer() {
  printf '%s\n' '#include <stddef.h>' '#include <stdint.h>' \
    'extern "C" int LLVMFuzzerTestOneInput(const uint8_t*, size_t) { return 0; }' >"$build/probe.cc"
  "$1" -std=c++20 -fsanitize=fuzzer,address,undefined "$build/probe.cc" -o "$build/probe" 2>/dev/null &&
    "$build/probe" -runs=1 >/dev/null 2>&1
}

compiler=
for candidate in ${FUZZ_CXX:-clang++ clang++-21 clang++-20 clang++-19 clang++-18 clang++-17 clang++-16}; do
  if has_libfuzzer "$candidate"; then
    compiler=$candidate
    break
  fi
done

compile() { # sanitizers, target, further options
  sanitizers=$1 target=$2
  shift 2
  cmake -S "$source" -B "$build/$target" -DQFA_BUILD_FUZZERS=ON -DQFA_SANITIZE="$sanitizers" \
    -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O1 "$@" >"$build/cmake.log"
  cmake --build "$build/$target" -j "${JOBS:-2}" --target "$target" attention_random \
    >"$build/build.log" || { tail -n 50 "$build/build.log"; exit 1; }
}

cd "$build"
if [ -n "$compiler" ]; then
  echo "libFuzzer of $compiler, $seconds seconds"
  compile address,undefined,fuzzer-no-link attention_fuzz -DCMAKE_CXX_COMPILER="$compiler" \
    -DCMAKE_CXX_FLAGS="-fsanitize-coverage-ignorelist=$source/fuzz/unobserved.txt \
      -fsanitize-ignorelist=$source/fuzz/unchecked.txt -fsanitize-address-outline-instrumentation"
  mkdir -p corpus
  attention_fuzz/fuzz/attention_random --write corpus 64
  attention_fuzz/fuzz/attention_fuzz -max_total_time="$seconds" -max_len=1024 -len_control=0 -timeout=60 \
    -print_final_stats=1 corpus >fuzz.log 2>&1 || { tail -n 60 fuzz.log; exit 1; }
  grep -E 'DONE|stat::number_of_executed_units|stat::new_units' fuzz.log
else
  echo "random inputs, for no Clang with libFuzzer was found, $seconds seconds"
  compile address,undefined attention_random
  attention_random/fuzz/attention_random "$seconds" "${FUZZ_SEED:-1}"
fi
