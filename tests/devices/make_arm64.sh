#!/usr/bin/env bash
# Makes an arm64 Debian with Python and onnxruntime's aarch64 wheel in a folder, to run under qemu-user. Needs root and
# Debian or Ubuntu. Times mean nothing there; the agent's words and onnxruntime's numbers do.
# usage: make_arm64.sh [FOLDER] [ONNXRUNTIME_VERSION]
set -euo pipefail
root=${1:-/var/tmp/autoprune-arm64} version=${2:-1.31.1}
apt-get install -y -qq --no-install-recommends debootstrap qemu-user-static >/dev/null
formats=/proc/sys/fs/binfmt_misc
mountpoint -q $formats || mount -t binfmt_misc binfmt_misc $formats
if [ ! -e $formats/qemu-aarch64 ]; then # F: the emulator is opened here and now, so that it works inside a chroot
  machine='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
  mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
  printf '%s' ":qemu-aarch64:M::$machine:$mask:$(command -v qemu-aarch64-static):F" >$formats/register
fi
if [ ! -x "$root/usr/bin/python3" ]; then
  debootstrap --arch=arm64 --foreign --variant=minbase --include=python3,python3-pip bookworm "$root" >/dev/null
  chroot "$root" /debootstrap/debootstrap --second-stage >/dev/null
fi
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
python3 -m pip download -q --only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
  --platform manylinux2014_aarch64 --platform any -d "$wheels" "onnxruntime==$version"
mkdir -p "$root/wheels" && cp "$wheels"/*.whl "$root/wheels/"
chroot "$root" sh -c 'python3 -m pip install --break-system-packages -q --root-user-action=ignore --no-index /wheels/*.whl'
chroot "$root" python3 -c 'import onnxruntime, platform; print(platform.machine(), "onnxruntime", onnxruntime.__version__)'
