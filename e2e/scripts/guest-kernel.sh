#!/bin/bash
# The kernel that ring-3 tests and the demo run on.
#   guest-kernel.sh engine   "native": the running kernel has GRE, ESP and nft logging (and we are root),
#                            so network namespaces on this machine do; else "guest"
#   guest-kernel.sh path     where the guest kernel for this uml.config and these patches is kept; status 1 if not
#                            built yet
#   guest-kernel.sh build    build it there from Debian's linux-source-6.1 (nothing to do if it exists)
# Kept outside the clone, keyed by package version, configuration with patches, and architecture.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
config=$here/../guest/uml.config
patches=("$here"/../guest/uml-*.patch)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/dmvpn
source_pkg=linux-source-6.1
objects=1785 # what `make` compiles, links and archives, for the estimate

source_version() {
    local v
    v=$(dpkg-query -W -f '${Status} ${Version}\n' $source_pkg 2>/dev/null | sed -n 's/^install ok installed //p')
    [ -n "$v" ] || v=$(apt-cache show --no-all-versions $source_pkg 2>/dev/null | sed -n 's/^Version: //p')
    [ -n "$v" ] || v=$(ls -d "$cache"/guest-kernel/* 2>/dev/null | sed 's|.*/||; s|-[0-9a-f]*-[^-]*$||' | tail -n 1)
    echo "${v:-unknown}"
}

kernel_path() {
    local hash
    hash=$(cat "$config" "${patches[@]}" | sha256sum | cut -c1-16)
    echo "$cache/guest-kernel/$(source_version)-$hash-$(uname -m)/linux"
}

engine() {
    if [ -n "${DMVPN_LAB_ENGINE:-}" ]; then
        echo "$DMVPN_LAB_ENGINE"
    elif [ "$(id -u)" = 0 ] && unshare -n sh -ec '
        ip link add dmvpnprobe type gre local 127.0.0.1 key 1
        ip xfrm state add src 127.0.0.1 dst 127.0.0.1 proto esp spi 0x1000 mode transport \
            aead "rfc4106(gcm(aes))" 0x0102030405060708090a0b0c0d0e0f1011121314 128
        nft "add table inet p; add chain inet p c { type filter hook forward priority 0; }"
        nft "add rule inet p c log group 100"
    ' >/dev/null 2>&1; then
        echo native
    else
        echo guest
    fi
}

# Runs while process $1 lives: one line every 10 s (or a line redrawn each second on a terminal).
progress() {
    local pid=$1 log=$2 start=$SECONDS done_ spent left last=0
    while kill -0 "$pid" 2>/dev/null; do
        sleep 1
        spent=$((SECONDS - start))
        done_=$(grep -cE '^ +(CC|AS|LD|AR|HOSTCC) ' "$log" || true)
        # Until enough is counted: what it takes on an idle machine.
        left=$((800 / $(nproc)))
        [ "$done_" -gt 50 ] && left=$(((objects - done_) * spent / done_)) && [ "$left" -lt 1 ] && left=1
        if [ -t 2 ]; then
            printf '\r  guest kernel: %d of about %d objects, %d s, about %s s left   ' \
                "$done_" $objects $spent "$left" >&2
        elif [ $((spent - last)) -ge 10 ]; then
            last=$spent
            echo "  guest kernel: $done_ of about $objects objects, $spent s, about $left s left" >&2
        fi
    done
    if [ -t 2 ]; then printf '\n' >&2; fi
}

build() {
    local target dir tar log pid start=$SECONDS
    target=$(kernel_path)
    [ -x "$target" ] && return 0
    tar=/usr/src/$source_pkg.tar.xz
    [ -f $tar ] || { echo "guest-kernel: $tar is missing: apt-get install $source_pkg" >&2; exit 1; }
    mkdir -p "$cache/guest-kernel"
    exec 8>"$cache/guest-kernel/lock"
    flock -n 8 || { echo "guest-kernel: another run is building it, waiting" >&2; flock 8; }
    [ -x "$target" ] && return 0
    # Only the holder of the lock makes such folders: what is here was left by a run that was killed.
    rm -rf "$cache"/guest-kernel/tmp.*
    tmp=$(mktemp -d "$cache/guest-kernel/tmp.XXXXXX")
    # Not local: the trap runs when this function is over.
    trap 'rm -rf "${tmp:-}"' EXIT
    log=$tmp/log
    echo "guest kernel: unpacking $source_pkg (1.5 GB, removed afterwards; about half a minute)" >&2
    tar -C "$tmp" -xf $tar
    (
        cd "$tmp/$source_pkg" &&
            cat "${patches[@]}" | patch -p1 --no-backup-if-mismatch &&
            make ARCH=um defconfig &&
            scripts/kconfig/merge_config.sh -m .config "$config" &&
            make ARCH=um olddefconfig
    ) >"$log" 2>&1 </dev/null || { tail -n 20 "$log" >&2; exit 1; }
    echo "guest kernel: compiling with $(nproc) CPUs (about 800 CPU seconds)" >&2
    nice make -C "$tmp/$source_pkg" ARCH=um -j"$(nproc)" linux >>"$log" 2>&1 </dev/null &
    pid=$!
    progress $pid "$log"
    wait $pid || { grep -iE 'error|\*\*\*' "$log" | tail -n 20 >&2; cp "$log" "$cache/guest-kernel/failed.log"
        echo "guest-kernel: build failed, see $cache/guest-kernel/failed.log" >&2; exit 1; }
    dir=$(dirname "$target")
    mkdir "$tmp/out"
    cp "$tmp/$source_pkg/linux" "$tmp/$source_pkg/.config" "$tmp/out/"
    rm -rf "$dir"
    mv "$tmp/out" "$dir"
    echo "guest kernel: built in $((SECONDS - start)) s: $target" >&2
}

case ${1:-} in
engine) engine ;;
path) p=$(kernel_path); echo "$p"; [ -x "$p" ] ;;
build) build ;;
*) sed -n '2,9s/^# \?//p' "$0" >&2; exit 2 ;;
esac
