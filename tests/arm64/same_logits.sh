#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# same_logits.sh NATIVE PROGRAM [EMULATOR...]: the logits of models of every type and architecture are the
# same bits from NATIVE, a build for this machine, and from PROGRAM, shoal-logits-bits for another.
set -eu
native=$1
other=$2
shift 2
for program in "$native/bin/shoal-forge" "$native/tests/shoal-logits-bits"; do
    if [ ! -x "$program" ]; then
        echo "same_logits.sh: $program is not there: build the release preset first" >&2
        exit 1
    fi
done
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/models"
for type in F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 IQ4_NL Q2_K Q3_K Q4_K Q5_K Q6_K; do
    "$native/bin/shoal-forge" make-random --shape llama-tiny --type "$type" -o "$scratch/models/$type" >/dev/null
done
"$native/bin/shoal-forge" convert -m "$scratch/models/F32" --type FP8 -o "$scratch/models/FP8" >/dev/null
"$native/tests/shoal-logits-bits" "$scratch/models/"* >"$scratch/here"
"$@" "$other" "$scratch/models/"* >"$scratch/there"
diff "$scratch/here" "$scratch/there"
echo "$(wc -l <"$scratch/here") models give the same logits"
