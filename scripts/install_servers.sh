#!/bin/sh
# Install the servers that the tests and benchmarks use, the openssl that makes their certificates, the promtool that reads
# our alerts, the kubectl that builds our manifests and the strace that tells what is on disk, where they are missing and we
# may: as root on Debian.
# A failure here is no error: Valkey then comes out of PyPI, and a test says which server it lacks.

missing=
for server in redis-server valkey-server openssl promtool strace; do
    command -v "$server" >/dev/null || missing="$missing $server"
done
command -v etcd >/dev/null || missing="$missing etcd-server"
command -v kubectl >/dev/null || missing="$missing kubernetes-client"

if [ -z "$missing" ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    exit 0
fi

echo "installing$missing"
# runlevel 1 keeps the packages from starting system services: every test starts its own server
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt-get -qq update </dev/null || true
for server in $missing; do
    # one at a time, so that a release that lacks one still gets the other
    apt-get -qq install --yes --no-install-recommends "$server" </dev/null >/dev/null || echo "could not install $server"
done
