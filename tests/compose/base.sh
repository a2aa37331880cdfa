#!/bin/sh
# Make what the base images are made of, where no image can be pulled: a Debian root file system with Python and the
# servers, this Debian's own release, and the wheels of our own image. Installs an engine where there is none, unless
# the second argument is `files`. For root on Debian. Takes minutes, once: `base.sh FOLDER [files]`.
set -eu
folder=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
packages=ca-certificates,etcd-client,etcd-server,postgresql,prometheus,python3,python3-venv,redis-server,valkey-server
mkdir -p "$folder"

install() {
    echo "installing $*"
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 # runlevel 1 keeps the packages from starting system services
    apt-get -qq update </dev/null
    apt-get -qq install --yes --no-install-recommends "$@" </dev/null >/dev/null
}

if [ "${2:-}" != files ] &&
    ! { command -v dockerd && command -v iptables && docker compose version && docker buildx version; } >/dev/null 2>&1; then
    install docker.io docker-cli docker-compose docker-buildx iptables
fi

if [ ! -e "$folder/root.tar" ] || [ "$(cat "$folder/packages" 2>/dev/null)" != "$packages" ]; then
    command -v debootstrap >/dev/null || install debootstrap
    echo "making a Debian root file system in $folder"
    . /etc/os-release
    mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME)' 'Created-By: Packages' |
        awk -v release="$VERSION_CODENAME" '$2 == release { print $1; exit }')
    rm -rf "$folder/root"
    debootstrap --variant=minbase --include="$packages" "$VERSION_CODENAME" "$folder/root" "$mirror" \
        >"$folder/debootstrap.log" 2>&1 || { tail -n 20 "$folder/debootstrap.log" >&2; exit 1; }
    # containers have a /dev and a /proc of their own, and no mirror
    tar --create --directory "$folder/root" --one-file-system --file "$folder/root.tar.part" \
        --exclude './dev/*' --exclude './proc/*' --exclude './sys/*' --exclude './var/cache/apt/*' \
        --exclude './var/lib/apt/lists/*' --exclude './etc/apt/sources.list*' .
    rm -rf "$folder/root"
    mv "$folder/root.tar.part" "$folder/root.tar"
    echo "$packages" >"$folder/packages"
fi

if [ ! -e "$folder/wheels/.complete" ] || [ "$root/deploy/requirements.lock" -nt "$folder/wheels/.complete" ] ||
    [ "$root/deploy/build.lock" -nt "$folder/wheels/.complete" ]; then
    echo "fetching the wheels of the image"
    rm -rf "$folder/wheels" "$folder/venv"
    # the system's Python, which is that of the root file system
    /usr/bin/python3 -m venv "$folder/venv"
    "$folder/venv/bin/python" -m pip --quiet download --dest "$folder/wheels" --only-binary=:all: --require-hashes \
        --requirement "$root/deploy/requirements.lock" --requirement "$root/deploy/build.lock"
    touch "$folder/wheels/.complete"
fi
