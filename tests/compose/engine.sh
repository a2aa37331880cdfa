#!/bin/sh
# Run a command with a Docker engine of its own: `engine.sh COMMAND...`, as root, with dockerd on the PATH.
#
# Engine, containers and command are in process, mount and network namespaces that end with the command, so nothing is
# left behind, nothing of the machine's is touched, and no container reaches any network but those of the engine.
set -eu

if [ "${1:-}" != --inside ]; then
    work=$(mktemp -d /tmp/peerjob-engine.XXXXXX)
    status=0
    unshare --fork --kill-child --pid --mount-proc --net --mount sh "$0" --inside "$work" "$@" || status=$?
    rm -rf "$work"
    exit "$status"
fi

work=$2
shift 2
ip link set lo up
# a view of the devices of this network namespace, which the engine's bridges are; cgroups stand below it
mkdir "$work/cgroup" "$work/config"
mount --rbind /sys/fs/cgroup "$work/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$work/cgroup" /sys/fs/cgroup

export DOCKER_HOST="unix://$work/docker.sock" DOCKER_CONFIG="$work/config"
# the engine ends with its containers, so testcontainers needs no container that removes the others
export TESTCONTAINERS_RYUK_DISABLED=true
dockerd --host "$DOCKER_HOST" --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/docker.pid" \
    --exec-opt native.cgroupdriver=cgroupfs >"$work/dockerd.log" 2>&1 &
engine=$!
until docker version >/dev/null 2>&1; do
    if ! kill -0 "$engine" 2>/dev/null; then
        echo "dockerd did not start:" >&2
        tail -n 5 "$work/dockerd.log" >&2
        exit 1
    fi
    sleep 0.2
done

status=0
"$@" || status=$?
kill "$engine"
wait "$engine" || true
exit "$status"
