#!/bin/sh
# An arm64 Debian with Python and onnxruntime's aarch64 wheel in the folder DIR, and the counting plugin beside QEMU's
# files in DIR/host. Debian or Ubuntu host, as root; downloads about 150 MB. Usage: setup.sh DIR [ONNXRUNTIME_VERSION]
set -eu
dir=$1
version=${2:-1.31.1}
here=$(cd "$(dirname "$0")" && pwd)

apt-get install -y -qq debootstrap qemu-user qemu-user-static binfmt-support gcc
if [ ! -x "$dir/usr/bin/python3" ]; then
    debootstrap --arch=arm64 --variant=minbase --include=python3,python3-pip bookworm "$dir"
fi

mkdir -p "$dir/wheels" "$dir/host"
for package in "onnxruntime==$version" "numpy==2.4.6" protobuf flatbuffers packaging; do
    python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 --platform manylinux_2_28_aarch64 \
        --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 --platform any -d "$dir/wheels" "$package"
done
chroot "$dir" python3 -m pip install -q --break-system-packages --no-index --no-deps --find-links /wheels \
    onnxruntime numpy protobuf flatbuffers packaging

# QEMU runs inside the guest's tree with its own loader and libraries, so that paths mean the guest's.
emulator=$(command -v qemu-aarch64)
cp "$emulator" "$dir/host/"
ldd "$emulator" | tr ' ' '\n' | grep '^/' | xargs -I{} cp -L {} "$dir/host/"
gcc -Wall -Wextra -O2 -shared -fPIC -o "$dir/host/counter.so" "$here/counter.c"
echo "ready: $dir"
