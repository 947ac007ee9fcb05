#!/bin/sh
# Installs one of the images' programs into a prefix: install.sh TARGET PREFIX, from the repository root.
# The Dockerfile runs this and so does CI, so that what an image holds is tried where none can be built.
set -eu

target=$1
prefix=$2
case $target in
    controller) extras= ;;
    gpu-shadow) extras='[gpu]' ;;
    *) echo "install.sh: unknown target '$target'; use controller or gpu-shadow" >&2; exit 2 ;;
esac

"${PYTHON:-python3}" -m venv "$prefix"
"$prefix/bin/pip" uninstall --quiet --yes setuptools   # the one that came with Python; who needs it brings the pinned one
PIP_CONSTRAINT=$PWD/constraints.txt "$prefix/bin/pip" install --quiet --no-cache-dir --compile ".$extras"

"$prefix/bin/python" -I docker/audit.py
"$prefix/bin/python" -m pip uninstall --quiet --yes pip   # nothing is installed where it runs

# One look at what was installed: the program starts and finds its files, and only gpu-shadow has torch.
if [ "$target" = gpu-shadow ]; then
    "$prefix/bin/python" -I -m gpu_shadow --help >/dev/null
    "$prefix/bin/python" -I -c 'import onnxruntime'   # imported by the process of an ONNX model, and not before
    exit
fi
"$prefix/bin/serin" plan --print-policy >/dev/null
"$prefix/bin/python" -I -c 'from controller.instrument import Instrumented'   # the quick start's model runs on this image
"$prefix/bin/python" -I -c 'from controller.prometheus import query; query("up", "namespace", ["pod"])'
if "$prefix/bin/python" -c 'import torch' 2>/dev/null; then
    echo 'install.sh: the controller must not carry torch' >&2
    exit 1
fi
