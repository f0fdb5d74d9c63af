#!/bin/sh
# Symbols of the build: what the library exports, and that no file of an instruction set defines
# anything which the linker may choose for other files, as it does with inline functions and
# templates.
# Usage: symbols.sh NM LIBRARY OBJECT...
set -eu
nm=$1 library=$2
shift 2
status=0

exported=$("$nm" -D --defined-only "$library" | awk '{ print $NF }')
for symbol in $exported; do
  case $symbol in
    RegisterCustomOps | qfa_*) ;;
    *)
      echo "$library exports $symbol"
      status=1
      ;;
  esac
done
case " $(echo $exported) " in
  *" qfa_attention_run "*) ;;
  *)
    echo "$library does not export qfa_attention_run"
    status=1
    ;;
esac

for object in "$@"; do
  case $object in
    */kernels/x86/* | */kernels/arm/*)
      shared=$("$nm" "$object" | awk '$(NF - 1) ~ /^[WVuvw]$/ { print $NF }')
      if [ -n "$shared" ]; then
        echo "$object shares" $shared
        status=1
      fi
      ;;
  esac
done
exit $status
