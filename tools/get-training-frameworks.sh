#!/bin/bash
# A virtual environment below $1 with PyTorch, Lightning and Transformers, for a CPU, for the tests of
# the training callbacks. Made by the Python $2. Anew when what it is made from changes.
set -euo pipefail
readonly folder=$1 python=$2
readonly tests=${BASH_SOURCE[0]%/*}/../tests/exporters/training_frameworks
made_from=$(cat -- "${BASH_SOURCE[0]}" "$tests/without_cuda.py" "$tests/requirements.txt" | sha256sum)

[[ $(cat -- "$folder/made_from" 2>/dev/null || true) != "$made_from" ]] || exit 0
"$python" -m venv --clear "$folder"
pip() { "$folder/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
# The wheel for Linux asks for gigabytes that only a GPU uses.
pip install --no-deps 'torch>=2.10,<2.16'
pip install --no-deps 'nvidia-cuda-runtime>=13,<14' 'nvidia-cuda-cupti>=13,<14'
packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
"$folder/bin/python" "$tests/without_cuda.py" "$packages"
pip install --requirement "$tests/requirements.txt"
"$folder/bin/python" -c 'import lightning.pytorch, torch, transformers'
printf '%s\n' "$made_from" >"$folder/made_from"
