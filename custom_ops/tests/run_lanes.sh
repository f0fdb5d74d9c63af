#!/bin/sh
# Builds and runs the kernel tests in the lanes that are named, or in all:
#   plain    optimized
#   asan     AddressSanitizer and UndefinedBehaviorSanitizer
#   msan     MemorySanitizer (Clang; CLANG names its C compiler, by default clang)
#   tsan     ThreadSanitizer, the threaded tests
#   aarch64  64-bit ARM under qemu (Debian: g++-aarch64-linux-gnu qemu-user)
#   baseline x86-64 without AVX under qemu: nothing outside the per-set files may need more than SSE2
#   fuzz     the C interface for FUZZ_SECONDS (600), see ../fuzz/run.sh
#   valgrind automatic dispatch and memory under Valgrind, which hides AVX-512 and AMX
# Usage: run_lanes.sh [-B BUILD_DIR] [LANE...]
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
build=${TMPDIR:-/tmp}/qfa-lanes
if [ "${1:-}" = -B ]; then
  build=$2
  shift 2
fi

configure() { # lane, further options
  lane=$1
  shift
  # An attempt that failed, say for want of a compiler, leaves a cache without the flags of a release
  # build, and a later one would take them from there.
  rm -f "$build/$lane/CMakeCache.txt"
  cmake -S "$source" -B "$build/$lane" -DQFA_BUILD_TESTS=ON "$@" >/dev/null
  cmake --build "$build/$lane" -j "${JOBS:-2}" >/dev/null
}

for lane in ${*:-plain asan msan tsan aarch64 baseline valgrind fuzz}; do
  echo "== $lane"
  case $lane in
    plain)
      configure plain
      ctest --test-dir "$build/plain" --output-on-failure
      ;;
    asan)
      configure asan -DQFA_SANITIZE=address,undefined
      ctest --test-dir "$build/asan" --output-on-failure
      ;;
    msan)
      # Optimized like the others: Clang's MemorySanitizer follows AVX's masked stores only once the
      # optimizer has made masked stores of any target of them, and else calls what they wrote
      # uninitialized.
      clang=${CLANG:-clang}
      configure msan -DQFA_SANITIZE=memory -DCMAKE_C_COMPILER="$clang" \
        -DCMAKE_CXX_COMPILER="$(echo "$clang" | sed 's/clang/clang++/')"
      ctest --test-dir "$build/msan" --output-on-failure
      ;;
    tsan)
      configure tsan -DQFA_SANITIZE=thread
      # ThreadSanitizer of GCC 12 cannot cope with the address randomization of newer kernels.
      setarch -R ctest --test-dir "$build/tsan" --output-on-failure -R threads
      ;;
    aarch64)
      configure aarch64 -DCMAKE_TOOLCHAIN_FILE="$source/cmake/aarch64-linux-gnu.cmake"
      ctest --test-dir "$build/aarch64" --output-on-failure
      ;;
    baseline)
      configure plain
      for test in dispatch kernels contract numbers validation; do
        qemu-x86_64 -cpu Nehalem "$build/plain/tests/${test}_test"
      done
      ;;
    valgrind)
      configure plain
      for test in dispatch_test validation_test; do
        valgrind -q --error-exitcode=9 --leak-check=full "$build/plain/tests/$test"
      done
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
