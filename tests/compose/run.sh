#!/bin/sh
# Run a command on the engine that the docker command finds, or, with `own` for its first argument, on one of its own
# with images that are made here: `run.sh own|'' COMMAND...`.
set -eu
engine=$1
shift
here=$(dirname "$0")
case $engine in
'') exec "$@" ;;
own) ;;
*)
    echo "ENGINE is '$engine'; it can be 'own', or nothing" >&2
    exit 2
    ;;
esac
if [ "$(id -u)" != 0 ]; then
    echo "an engine of its own needs root" >&2
    exit 2
fi
images=build/compose
sh "$here/base.sh" "$images"
exec sh "$here/engine.sh" sh -euc 'sh "$0" "$1"; shift; exec "$@"' "$here/images.sh" "$images" "$@"
