#!/bin/sh
# Make the images that the compose files and the Dockerfile name, out of what base.sh made: `images.sh FOLDER`.
# They stand in for the published ones: the same names, users, folders and entry points, and Debian's releases within.
set -eu
folder=$1
cd "$(dirname "$0")/../.."

echo "importing the root file system"
docker import "$folder/root.tar" peerjob-test-root >/dev/null

# Dockerfile lines come on standard input
make() {
    echo "making $1"
    { echo "FROM peerjob-test-root"; cat; } >"$folder/Dockerfile"
    docker build --quiet --tag "$1" --file "$folder/Dockerfile" "$folder" >/dev/null
}

python=$(sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile)
make "$python" <<'EOF'
RUN python3 -m venv /usr/local
COPY wheels /wheels
RUN printf '[global]\nno-index = true\nfind-links = /wheels\n' >/etc/pip.conf
CMD ["python3"]
EOF

postgres=$(sed -n 's/^POSTGRES = "\(.*\)"/\1/p' tests/support/containers.py)
make "$postgres" <<'EOF'
RUN ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/
CMD ["postgres"]
EOF

for file in docker-compose*.yml; do docker compose --file "$file" config --images; done | sort -u | while read -r image; do
    case $image in
    peerjob:*) ;; # built by the compose files themselves
    */etcd:*)
        make "$image" <<'EOF'
RUN rm -rf /var/lib/etcd && mkdir -m 700 /var/lib/etcd
CMD ["etcd"]
EOF
        ;;
    redis:* | valkey/valkey:*)
        make "$image" <<'EOF'
RUN userdel redis; userdel valkey; useradd --uid 999 --no-create-home server && mkdir /data && chown server /data
VOLUME /data
WORKDIR /data
EOF
        ;;
    prom/prometheus:*)
        make "$image" <<'EOF'
RUN mkdir /prometheus && chown nobody /prometheus
USER nobody
VOLUME /prometheus
WORKDIR /prometheus
ENTRYPOINT ["prometheus"]
EOF
        ;;
    *)
        echo "no image is made for $image" >&2
        exit 1
        ;;
    esac
done
docker run --rm peerjob-test-root sh -c \
    'etcd --version | head -n 1; valkey-server --version; redis-server --version; prometheus --version 2>&1 | head -n 1'
