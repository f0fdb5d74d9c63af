#!/bin/sh
# Builds and runs the kernel tests in the lanes that are named, or in all:
#   plain    optimized
#   asan     AddressSanitizer and UndefinedBehaviorSanitizer
#   msan     MemorySanitizer (Clang; CLANG names its C compiler, by default clang)
#   tsan     ThreadSanitizer, the threaded tests
#   aarch64  64-bit ARM under qemu (Debian: g++-aarch64-linux-gnu qemu-user), on processors with the
#            matrix product, with the dot product only, and with neither
#   baseline x86-64 without AVX under qemu: nothing outside the per-set files may need more than SSE2;
#            and with AVX2 alone
#   valgrind automatic dispatch and memory under Valgrind, which hides AVX-512 and AMX
#   powers   2^x of every float of [-126, 0] in every instruction set
#   fuzz     the C interface for FUZZ_SECONDS (600), see ../fuzz/run.sh
# Usage: run_lanes.sh [-B BUILD_DIR] [-R TESTS] [LANE...]
# -R runs only those tests that match, as ctest does, in lanes that run all.
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
build=${TMPDIR:-/tmp}/qfa-lanes
tests=.
while [ $# -ge 2 ]; do
  case $1 in
    -B) build=$2 ;;
    -R) tests=$2 ;;
    *) break ;;
  esac
  shift 2
done

run_tests() { # lane, further options
  lane=$1
  shift
  ctest --test-dir "$build/$lane" --output-on-failure -R "$tests" "$@"
}

configure() { # lane, further options
  lane=$1
  shift
  # An attempt that failed, say for want of a compiler, leaves a cache without the flags of a release
  # build, and a later one would take them from there.
  rm -f "$build/$lane/CMakeCache.txt"
  cmake -S "$source" -B "$build/$lane" -DQFA_BUILD_TESTS=ON "$@" >/dev/null
  cmake --build "$build/$lane" -j "${JOBS:-2}" >/dev/null
}

for lane in ${*:-plain asan msan tsan aarch64 baseline valgrind powers fuzz}; do
  echo "== $lane"
  case $lane in
    plain)
      configure plain
      run_tests plain
      ;;
    asan)
      configure asan -DQFA_SANITIZE=address,undefined
      run_tests asan
      ;;
    msan)
      # Optimized like the others: Clang's MemorySanitizer follows AVX's masked stores only once the
      # optimizer has made masked stores of any target of them, and else calls what they wrote
      # uninitialized.
      clang=${CLANG:-clang}
      configure msan -DQFA_SANITIZE=memory -DCMAKE_C_COMPILER="$clang" \
        -DCMAKE_CXX_COMPILER="$(echo "$clang" | sed 's/clang/clang++/')"
      run_tests msan
      ;;
    tsan)
      configure tsan -DQFA_SANITIZE=thread
      # ThreadSanitizer of GCC 12 cannot cope with the address randomization of newer kernels.
      setarch -R ctest --test-dir "$build/tsan" --output-on-failure -R threads
      ;;
    aarch64)
      configure aarch64 -DCMAKE_TOOLCHAIN_FILE="$source/cmake/aarch64-linux-gnu.cmake"
      for cpu in max=neoni8mm neoverse-n1=neondot cortex-a72=scalar; do
        echo "-- ${cpu%=*}"
        # What does not depend on the kernels that a processor has runs once.
        left_out='attention|memory|numbers|random|threads|symbols'
        if [ "${cpu%=*}" = max ]; then left_out=none; fi
        (
          export QEMU_CPU="${cpu%=*}" QFA_EXPECTED_ISA="${cpu#*=}"
          run_tests aarch64 -j "${JOBS:-2}" -E "$left_out"
        )
      done
      ;;
    baseline)
      configure plain
      for test in dispatch kernels contract numbers validation; do
        QFA_EXPECTED_ISA=scalar qemu-x86_64 -cpu Nehalem "$build/plain/tests/${test}_test"
      done
      for test in dispatch_test 'memory_test unaligned' 'cache_test in_place'; do
        QFA_EXPECTED_ISA=avx2 qemu-x86_64 -cpu Haswell "$build/plain/tests/"$test
      done
      ;;
    valgrind)
      configure plain
      for test in dispatch_test validation_test 'memory_test unaligned' 'cache_test in_place'; do
        QFA_EXPECTED_ISA=avx2 valgrind -q --error-exitcode=9 --leak-check=full "$build/plain/tests/"$test
      done
      ;;
    powers)
      configure plain
      QFA_EXHAUSTIVE=1 "$build/plain/tests/exp2_test"
      ;;
    fuzz)
      "$source/fuzz/run.sh" -B "$build/fuzz" "${FUZZ_SECONDS:-600}"
      ;;
    *)
      echo "unknown lane $lane" >&2
      exit 2
      ;;
  esac
done
